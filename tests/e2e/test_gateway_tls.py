"""Promise: a gateway that others can reach speaks HTTPS, and answers those alone whose key allows what they ask."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest

import spacte_client as sdk
from spacte_client import Client

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SPACTE = Path(sys.executable).with_name("spacte")
DIGIT = np.zeros((1, 8, 8), np.uint8)


def spacte(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command, as an operator or a caller runs it."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("SPACTE_")}
    return subprocess.run(
        [str(SPACTE), *arguments], env=others | variables, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., str]) -> Path:
    """A model, and a certificate of this machine's name that no authority has signed."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    make_checkpoint(folder / "models" / "digits")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def keys(folder: Path) -> dict[str, str]:
    """The keys of a user, an administrator and one whose key was revoked, made by the command."""
    file = ("--keys-file", str(folder / "keys.json"))
    made = {
        "user": spacte("keys", "create", "user", *file).stdout.strip(),
        "admin": spacte("keys", "create", "admin", "--admin", *file).stdout.strip(),
        "gone": spacte("keys", "create", "gone", *file).stdout.strip(),
    }
    assert spacte("keys", "revoke", "gone", *file).returncode == 0
    return made


@pytest.fixture(scope="module")
def url(folder: Path, keys: dict[str, str]) -> Iterator[str]:
    """The address of a gateway on every network of this machine; afterwards its log, which holds no key."""
    command = [SPACTE, "serve", "--in-process", "--models", folder / "models", "--data-dir", folder / "data"]
    command += ["--host", "0.0.0.0", "--port", 0, "--precision", "fp32", "--log-level", "debug"]
    command += ["--keys-file", folder / "keys.json", "--tls-cert", folder / "cert.pem", "--tls-key", folder / "key.pem"]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("SPACTE_")}
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=log, text=True, env=variables
        ) as server,
    ):
        assert server.stdout is not None
        found = re.search(r"https://0\.0\.0\.0:(\d+)", server.stdout.readline())
        assert found, (folder / "log").read_text()
        yield f"https://localhost:{found[1]}"
        server.terminate()
        assert server.wait(40) == 0
    log = (folder / "log").read_text()
    assert "certified" in log
    assert not [name for name, key in keys.items() if key in log]


@pytest.fixture
def trusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This test's clients trust the certificate."""
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "cert.pem"))


@pytest.mark.usefixtures("trusted")
def test_each_key_may_do_what_its_scope_allows(url: str, keys: dict[str, str]) -> None:
    with Client(url, keys["user"]) as client:
        assert client.certify(DIGIT, n=100).n == 100
        with pytest.raises(sdk.PermissionDeniedError, match="scope `admin`"):
            client.models.load("digits")
    with Client(url, keys["admin"]) as client:
        assert client.models.load("digits").name == "digits"
    for key, words in ((None, "Send an API key"), (keys["gone"], "revoked"), ("spacte_wrong", "not known")):
        with Client(url, key) as client, pytest.raises(sdk.AuthenticationError, match=words):
            client.certify(DIGIT, n=100)


@pytest.mark.usefixtures("trusted")
def test_browsers_are_told_to_stay_with_https(url: str) -> None:
    headers = httpx2.get(f"{url}/livez").headers
    assert headers["strict-transport-security"] == "max-age=31536000"


def test_a_certificate_that_is_not_trusted_is_told_from_nobody_there(url: str, keys: dict[str, str]) -> None:
    untrusting = Client(url, keys["user"], max_retries=0)
    with untrusting as client, pytest.raises(sdk.APIConnectionError, match="SSL_CERT_FILE"):
        client.info()


def test_the_doctor_knows_what_is_wrong(url: str, keys: dict[str, str], folder: Path) -> None:
    def findings(address: str, key: str, **variables: str) -> dict[str, tuple[str, str]]:
        done = spacte("doctor", "--json", "--base-url", address, SPACTE_API_KEY=key, **variables)
        return {check["name"]: (check["status"], check["finding"]) for check in json.loads(done.stdout)}

    trusting = {"SSL_CERT_FILE": str(folder / "cert.pem")}
    assert findings(url, keys["user"], **trusting)["models"] == ("ok", "digits")
    assert findings(url, keys["gone"], **trusting)["key"][0] == "failure"
    status, finding = findings(url, keys["user"])["gateway"]
    assert status == "failure"
    assert "SSL_CERT_FILE" in finding
    status, finding = findings(url.replace("https", "http"), keys["user"])["gateway"]
    assert status == "failure"
    assert "give an https address" in finding
