"""Promise: what the service signs is read by the standard's own tools, and nothing of it can be changed."""

import json
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from anyio import to_thread
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope as DsseEnvelope
from securesystemslib.signer import SSlibKey
from typer.testing import CliRunner

from spacte_client import AsyncClient
from spacte_client.cli.verify import verify_app
from spacte_client.signatures import check_certificate, read_public_keys, strict_json
from spacte_service.cli.keys import keys_app
from spacte_service.settings import Settings
from spacte_service.signing_keys import SigningKeysError, make_signing_key, read_signing_keys, write_signing_keys
from spacte_workers.cli import verify_app as full_verify

RUNNER = CliRunner()


def signing(command: str, keys: Path, *more: str) -> str:
    result = RUNNER.invoke(keys_app, ["signing", command, "--signing-keys-file", str(keys), *more])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / "signing-keys.json"
    (tmp_path / "first.pem").write_text(signing("create", file))
    return file


@pytest.fixture
def http(keys: Path, make_http: Callable[[Settings], httpx2.AsyncClient]) -> httpx2.AsyncClient:
    return make_http(Settings(signing_keys_file=keys))


@pytest.fixture
async def signed(http: httpx2.AsyncClient, digit: bytes) -> str:
    """A signed certificate, as the service sends it."""
    return (await http.post("/v1/certify", files={"image": digit})).text


def test_the_private_key_is_its_owners_alone(keys: Path, tmp_path: Path) -> None:
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    assert "PRIVATE" not in signing("list", keys) + signing("list", keys, "--pem")
    keys.chmod(0o640)
    result = RUNNER.invoke(keys_app, ["signing", "list", "--signing-keys-file", str(keys)])
    assert (result.exit_code, "chmod 600" in str(result.exception)) == (1, True)
    keys.chmod(0o600)
    again = RUNNER.invoke(keys_app, ["signing", "create", "--signing-keys-file", str(keys)])
    assert (again.exit_code, "already" in str(again.exception)) == (1, True)


async def test_the_standards_own_tools_read_it(http: httpx2.AsyncClient, signed: str) -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    (key,) = (await http.get("/v1/signing-keys")).json()["data"]
    theirs = SSlibKey.from_crypto(load_pem_public_key(key["public_key"].encode()))
    assert theirs.keyid == key["keyid"]
    certificate = json.loads(signed)
    envelope = DsseEnvelope.from_dict(certificate.pop("signature"))
    assert set(envelope.verify([theirs], 1)) == {key["keyid"]}
    statement = json.loads(envelope.payload)
    Statement.copy_from_pb(parsed(statement)).validate()
    assert statement["predicate"] == certificate
    assert {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]} == {
        "image": certificate["image_sha256"],
        "model/digits": certificate["model_version"],
    }


def parsed(statement: dict[str, Any]) -> Any:
    from google.protobuf.json_format import Parse
    from in_toto_attestation.v1 import statement_pb2

    return Parse(json.dumps(statement), statement_pb2.Statement())


async def test_any_of_ten_thousand_flipped_bits_is_refused(signed: str, tmp_path: Path) -> None:
    public = read_public_keys((tmp_path / "first.pem").read_bytes())
    assert check_certificate(strict_json(signed), public) == []
    data, chance = signed.encode(), random.Random(0)
    for _ in range(10_000):
        at, bit = chance.randrange(len(data)), chance.randrange(8)
        flipped = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
        try:
            findings = check_certificate(strict_json(flipped), public)
        except ValueError:
            continue
        assert findings, (at, flipped[at - 20 : at + 20])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("label_name", "seven"),
        ("model", "other"),
        ("created_at", "2020-01-01T00:00:00Z"),
        ("noise_error", 1e-20),
        ("preprocessing", {"source_size": [9, 9]}),
        ("abstained", 0),
        ("more", 1),
    ],
)
async def test_forged_fields_fail_at_both_commands(signed: str, tmp_path: Path, field: str, value: object) -> None:
    file, public = tmp_path / "cert.json", tmp_path / "first.pem"
    for content, code in ((json.loads(signed), 0), (json.loads(signed) | {field: value}, 1)):
        file.write_text(json.dumps(content, indent=2))
        result = RUNNER.invoke(verify_app, [str(file), "--key", str(public)])
        assert result.exit_code == code, result.output
        if code:
            assert result.output.startswith(f"{field}: it is not what was signed.")
            full = RUNNER.invoke(full_verify, [str(file), "--key", str(public)])
            assert (full.exit_code, full.output) == (1, result.output)


async def test_a_rotated_keys_certificates_verify(
    http: httpx2.AsyncClient, keys: Path, digit: bytes, signed: str, tmp_path: Path
) -> None:
    new = tmp_path / "second.pem"
    new.write_text(signing("rotate", keys))
    after = (await http.post("/v1/certify", files={"image": digit})).text
    both = (await http.get("/v1/signing-keys")).json()["data"]
    assert [key["retired_at"] is None for key in both] == [False, True]
    assert "".join(key["public_key"] for key in both) == signing("list", keys, "--pem")
    assert sum("PRIVATE" in str(key) for key in json.loads(await to_thread.run_sync(keys.read_text))) == 1
    every = read_public_keys(signing("list", keys, "--pem").encode())
    assert check_certificate(strict_json(signed), every) == []
    assert check_certificate(strict_json(after), every) == []
    assert check_certificate(strict_json(signed), read_public_keys(new.read_bytes()))[0].startswith(
        "signature: the key"
    )


async def test_the_sdk_keeps_what_was_signed(http: httpx2.AsyncClient, digit: bytes, tmp_path: Path) -> None:
    """Also after it is parsed and written anew, and as the last event of a stream."""
    public = read_public_keys((tmp_path / "first.pem").read_bytes())
    async with AsyncClient("http://testserver", transport=http._transport) as client:
        certificate = await client.certify(digit)
        assert check_certificate(strict_json(certificate.model_dump_json()), public) == []
        async with client.certify_stream(digit) as stream:
            streamed = await stream.result()
        assert check_certificate(strict_json(streamed.model_dump_json()), public) == []


async def test_without_keys_nothing_is_signed(
    make_http: Callable[[Settings], httpx2.AsyncClient], digit: bytes, tmp_path: Path
) -> None:
    plain = make_http(Settings())
    certificate = await plain.post("/v1/certify", files={"image": digit})
    assert certificate.json()["signature"] is None
    assert (await plain.get("/v1/signing-keys")).json() == {"data": []}
    (tmp_path / "key.pem").write_text(signing("create", tmp_path / "keys.json"))
    (tmp_path / "cert.json").write_text(certificate.text)
    result = RUNNER.invoke(verify_app, [str(tmp_path / "cert.json"), "--key", str(tmp_path / "key.pem")])
    assert (result.exit_code, result.output) == (1, "signature: there is none.\n")


@pytest.mark.parametrize("owner", ["root", "own"])
def test_a_mounted_secret_with_signing_keys_is_read_and_one_of_another_user_is_not(
    owner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubernetes mounts it as root's, readable by the pod's group."""
    file = tmp_path / "keys.json"
    write_signing_keys(file, [make_signing_key()])
    file.chmod(0o440)
    uid = file.stat().st_uid
    monkeypatch.setattr("spacte_service.signing_keys.os.geteuid", lambda: 10001)
    monkeypatch.setattr("spacte_service.signing_keys.ROOT", uid if owner == "root" else uid + 1)
    if owner == "root":
        assert len(read_signing_keys(file)) == 1
        file.chmod(0o444)
    with pytest.raises(SigningKeysError, match="Others can read"):
        read_signing_keys(file)
