"""Promise: keys are kept as hashes, found in constant time, revoked at once; only the right scope gets in."""

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from secrets import compare_digest
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner

from spacte_service import Settings, create_app
from spacte_service.cli.keys import keys_app
from spacte_service.keys import KeyRing, KeysFileError, find, hash_of, keys_from_text, make_key, read_keys, write_keys

MakeHttp = Callable[[Settings], httpx2.AsyncClient]


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def spacte_keys(keys_file: Path) -> Callable[..., Any]:
    """Runs `spacte keys ...` on the file."""

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(keys_app, [*arguments, "--keys-file", str(keys_file)])

    return run


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def made(result: Any) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def test_a_file_holds_hashes_and_is_the_owners_alone(spacte_keys: Any, keys_file: Path) -> None:
    secret = made(spacte_keys("create", "alice"))
    assert secret.startswith("spacte_")
    assert len(secret) > 40
    assert secret not in keys_file.read_text()
    assert keys_file.stat().st_mode & 0o077 == 0
    (key,) = read_keys(keys_file)
    assert (key.name, key.scope, key.sha256) == ("alice", "user", hash_of(secret))
    assert [path.name for path in keys_file.parent.iterdir()] == ["keys.json"]


def test_keys_are_listed_and_revoked(spacte_keys: Any, keys_file: Path) -> None:
    spacte_keys("create", "alice")
    spacte_keys("create", "bob", "--admin")
    assert made(spacte_keys("revoke", "alice")) == ""
    lines = made(spacte_keys("list")).splitlines()
    assert "alice  user" in lines[0]
    assert "revoked" in lines[0]
    assert "bob  admin" in lines[1]
    assert lines[1].endswith("valid")
    again = spacte_keys("revoke", "alice")
    assert again.exit_code == 1
    assert "no valid key alice" in str(again.exception) + again.output


@pytest.mark.parametrize("arguments", [("create", "two words"), ("create", ""), ("create", "x" * 65), ("list",)])
def test_a_mistake_is_one_sentence(spacte_keys: Any, arguments: tuple[str, ...]) -> None:
    result = spacte_keys(*arguments)
    assert result.exit_code == 1
    assert "Traceback" not in result.output


def test_a_name_is_used_once_until_it_is_revoked(spacte_keys: Any) -> None:
    spacte_keys("create", "alice")
    assert spacte_keys("create", "alice").exit_code == 1
    spacte_keys("revoke", "alice")
    assert spacte_keys("create", "alice").exit_code == 0


def test_an_entry_can_be_printed_for_the_environment(spacte_keys: Any, keys_file: Path) -> None:
    result = spacte_keys("create", "ci", "--print")
    entry = result.stderr.split(": ", 1)[1].strip()
    (key,) = keys_from_text(entry)
    assert find([key], result.stdout.strip()) == key
    assert not keys_file.exists()


@pytest.mark.parametrize(
    "text", ["alice", "alice:user", "alice:root:" + "0" * 64, "alice:user:zz", "a b:user:" + "0" * 64]
)
def test_a_malformed_environment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="key"):
        Settings(api_keys=text)


def test_every_key_is_compared_whichever_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [make_key(f"k{i}", "user") for i in range(5)]
    compared: list[str] = []

    def compare(first: str, second: str) -> bool:
        compared.append(first)
        return compare_digest(first, second)

    monkeypatch.setattr("spacte_service.keys.compare_digest", compare)
    keys = [key for _, key in pairs]
    for secret, key in (pairs[0], pairs[4], ("spacte_unknown", None)):
        compared.clear()
        assert find(keys, secret) == key
        assert compared == [key.sha256 for key in keys]


def test_a_ring_follows_its_file_and_survives_its_loss(keys_file: Path) -> None:
    secret, key = make_key("alice", "user")
    write_keys(keys_file, [key])
    ring = KeyRing([], keys_file)
    assert ring.find(secret) == key
    other, second = make_key("bob", "user")
    write_keys(keys_file, [key, second])
    assert ring.find(other) == second
    keys_file.write_text("{damaged")
    assert ring.find(secret) == key
    keys_file.unlink()
    assert ring.find(secret) == key


@pytest.mark.parametrize("content", [None, "not json", '[{"id": "x"}]'])
def test_a_missing_or_damaged_file_stops_the_start(keys_file: Path, content: str | None) -> None:
    if content is not None:
        keys_file.write_text(content)
    with pytest.raises(KeysFileError, match="keys"):
        KeyRing([], keys_file)


@pytest.fixture
def people(keys_file: Path) -> dict[str, str]:
    """Secrets of a user, an administrator and one whose key was revoked."""
    user, user_key = make_key("user", "user")
    admin, admin_key = make_key("admin", "admin")
    gone, gone_key = make_key("gone", "admin")
    revoked = gone_key.model_copy(update={"revoked_at": gone_key.created_at})
    write_keys(keys_file, [user_key, admin_key, revoked])
    return {"user": user, "admin": admin, "gone": gone}


async def test_who_gets_in(make_http: MakeHttp, keys_file: Path, people: dict[str, str], digit: bytes) -> None:
    http = make_http(Settings(keys_file=keys_file))

    async def status(path: str, key: str | None, method: str = "GET", **options: Any) -> int:
        headers = bearer(key) if key is not None else {}
        return (await http.request(method, path, headers=headers, **options)).status_code

    certify = {"method": "POST", "files": {"image": ("d.png", digit)}}
    for path, options in {
        "/v1/certify": certify,
        "/v1/predict": certify,
        "/v1/certify/stream": certify,
        "/v1/models": {},
        "/v1/models/digits": {},
        "/v1/info": {},
        "/metrics": {},
        "/v2/models/digits": {},
        "/v2/models/digits/ready": {},
    }.items():
        assert await status(path, None, **options) == 401, path
        assert await status(path, "spacte_wrong", **options) == 401, path
        assert await status(path, people["gone"], **options) == 401, path
        assert await status(path, people["user"], **options) == 200, path
        assert await status(path, people["admin"], **options) == 200, path
    for path in ("/v1/models/digits/load", "/v1/models/digits/unload"):
        assert await status(path, None, "POST") == 401
        assert await status(path, people["gone"], "POST") == 401
        assert await status(path, people["user"], "POST") == 403
        assert await status(path, people["admin"], "POST") == 202
    for path in ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready", "/openapi.json", "/"):
        assert await status(path, None) == 200, path


async def test_a_refusal_names_the_remedy_and_the_scheme(
    make_http: MakeHttp, keys_file: Path, people: dict[str, str]
) -> None:
    http = make_http(Settings(keys_file=keys_file))
    for headers, words in (
        ({}, "Authorization: Bearer"),
        ({"Authorization": "Basic dXNlcjpwYXNz"}, "Authorization: Bearer"),
        (bearer("spacte_wrong"), "not known"),
        (bearer(people["gone"]), "revoked"),
    ):
        answer = await http.get("/v1/models", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["code"] == "unauthenticated"
        assert words in answer.json()["detail"]
    answer = await http.post("/v1/models/digits/load", headers=bearer(people["user"]))
    assert answer.json()["code"] == "forbidden"


async def test_a_key_is_revoked_while_the_gateway_runs(make_http: MakeHttp, keys_file: Path, spacte_keys: Any) -> None:
    secret = made(spacte_keys("create", "alice"))
    http = make_http(Settings(keys_file=keys_file))
    assert (await http.get("/v1/models", headers=bearer(secret))).status_code == 200
    spacte_keys("revoke", "alice")
    assert (await http.get("/v1/models", headers=bearer(secret))).status_code == 401


async def test_no_body_is_read_for_one_without_a_key(make_http: MakeHttp, keys_file: Path, people: Any) -> None:
    http = make_http(Settings(keys_file=keys_file))
    taken = 0

    async def pieces() -> Any:
        nonlocal taken
        for _ in range(10):
            taken += 1
            yield b"x" * 1000

    assert (await http.post("/v1/certify", content=pieces())).status_code == 401
    assert taken == 0


async def test_places_are_counted_by_key(
    make_http: MakeHttp, keys_file: Path, people: dict[str, str], backend: Any, digit: bytes, until: Any
) -> None:
    http = make_http(Settings(keys_file=keys_file, max_concurrent_per_caller=1))
    backend.gate.clear()

    def certify(who: str) -> Any:
        return http.post("/v1/certify", files={"image": ("d.png", digit)}, headers=bearer(people[who]))

    first = asyncio.create_task(certify("user"))
    await until(lambda: backend.running == 1)
    second = await certify("user")
    assert (second.status_code, second.json()["code"]) == (429, "overloaded")
    assert int(second.headers["retry-after"]) >= 1
    other = asyncio.create_task(certify("admin"))
    await until(lambda: backend.running == 2)
    backend.gate.set()
    assert {(await first).status_code, (await other).status_code} == {200}


async def test_no_log_line_holds_a_key_or_image_bytes(
    make_http: MakeHttp,
    keys_file: Path,
    people: dict[str, str],
    backend: Any,
    digit: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import base64

    http = make_http(Settings(keys_file=keys_file))
    data = base64.b64encode(digit).decode()
    with caplog.at_level(logging.DEBUG):
        for fault in (None, RuntimeError("broken")):
            backend.fault = fault
            for key in (people["user"], people["gone"], "spacte_wrong"):
                json_body = {"image": {"type": "base64", "data": data}, "model": "digits"}
                await http.post("/v1/certify", json=json_body, headers=bearer(key))
                await http.post("/v1/certify", files={"image": ("d.png", digit)}, headers=bearer(key))
                await http.post("/v1/certify", json=json_body | {"n": 0}, headers=bearer(key))
    assert caplog.records
    text = "\n".join(record.getMessage() + (record.exc_text or "") for record in caplog.records)
    assert "certified" in text
    for secret in (*people.values(), "spacte_wrong", data, data[:40], repr(digit)[:40]):
        assert secret not in text


def test_a_gateway_that_others_can_reach_needs_keys_or_plain_words(keys_file: Path) -> None:
    with pytest.raises(ValueError, match="--allow-anonymous"):
        Settings(host="0.0.0.0")
    with pytest.raises(ValueError, match=r"under a name of its own .DNS rebinding.; .* --allowed-hosts"):
        Settings(host="0.0.0.0", allow_anonymous=True)
    assert not Settings(host="0.0.0.0", allow_anonymous=True, allowed_hosts="lab.example").has_keys
    assert Settings(host="0.0.0.0", keys_file=keys_file).has_keys
    with pytest.raises(ValueError, match="contradict"):
        Settings(keys_file=keys_file, allow_anonymous=True)
    for host in ("localhost", "127.0.0.1", "127.1.2.3", "::1"):
        assert Settings(host=host).loopback
    assert not Settings(host="example.org", allow_anonymous=True, allowed_hosts="example.org").loopback


async def test_keys_from_the_environment(monkeypatch: pytest.MonkeyPatch, backend: Any) -> None:
    secret, key = make_key("ci", "user")
    monkeypatch.setenv("SPACTE_API_KEYS", f"ci:user:{key.sha256}")
    transport = httpx2.ASGITransport(app=create_app(None, backend))
    async with httpx2.AsyncClient(transport=transport, base_url="http://t") as http:
        assert (await http.get("/v1/models")).status_code == 401
        assert (await http.get("/v1/models", headers=bearer(secret))).status_code == 200
        assert json.loads((await http.get("/livez")).text)["status"] == "ok"


def test_a_file_that_cannot_be_read_or_written_is_left_as_it_was(keys_file: Path) -> None:
    keys_file.mkdir()
    with pytest.raises(KeysFileError, match="cannot be read"):
        read_keys(keys_file)
    with pytest.raises(OSError, match="directory"):
        write_keys(keys_file, [make_key("alice", "user")[1]])
    assert [path.name for path in keys_file.parent.iterdir()] == ["keys.json"]
