"""`spacte doctor`: each thing that can be wrong with a set-up is found, with its remedy."""

import json
from importlib.metadata import EntryPoint, PackageNotFoundError
from typing import Any

import httpx2
import pytest

from spacte_client import Client, __version__
from spacte_client.cli import _checks

from .conftest import INFO, MODEL, Spacte, problem

READY = {"status": "ok", "checks": {"samplers": "ok", "models": "ok"}}


class Gateway:
    """Answers the doctor's questions, each as it is told to."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {"info": INFO, "readyz": READY, "models": {"data": [MODEL]}} | answers

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        answer = self.answers[request.url.path.rsplit("/", 1)[-1]]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx2.Response) else httpx2.Response(200, json=answer)


@pytest.fixture
def doctor(spacte: Spacte, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`doctor(gateway, *options)`: exit status and findings by name."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(_checks, "entry_points", lambda group: ())

    def run(gateway: Any, *options: str) -> tuple[int, dict[str, tuple[str, str]]]:
        def client(*arguments: Any, **more: Any) -> Client:
            return Client(*arguments, transport=httpx2.MockTransport(gateway), **more)

        monkeypatch.setattr(_checks, "Client", client)
        outcome = spacte("doctor", "--json", *options)
        return outcome.status, {c["name"]: (c["status"], c["finding"]) for c in json.loads(outcome.out)}

    return run


def test_a_sound_set_up(doctor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    status, found = doctor(Gateway())
    assert status == 0
    assert found["address"] == ("ok", "http://127.0.0.1:8000 (the default)")
    assert found["gateway"] == ("ok", "version 0.1.0, 2 samplers on cpu")
    assert found["models"] == ("ok", "digits")
    assert found["samplers"] == ("ok", "ok")
    monkeypatch.setenv("SPACTE_BASE_URL", "http://localhost:1")
    assert doctor(Gateway())[1]["address"][1] == "http://localhost:1 (SPACTE_BASE_URL)"
    assert doctor(Gateway(), "--base-url", "http://localhost:2")[1]["address"][1].endswith("(as given)")


BROKEN: list[tuple[dict[str, Any], str, str]] = [
    ({"info": httpx2.ConnectError("refused")}, "gateway", "spacte serve"),
    ({"info": httpx2.RemoteProtocolError("Server disconnected.")}, "gateway", "give an https address"),
    ({"info": problem(401, "unauthenticated", "Send a key.")}, "key", "Send a key."),
    ({"info": problem(403, "forbidden", "Ask for another.")}, "key", "Ask for another."),
    ({"info": problem(500, "internal", "Look at the log.")}, "gateway", "Look at the log."),
    ({"info": httpx2.Response(200, html="<html>")}, "gateway", "not a Info"),
    ({"readyz": httpx2.Response(503, json=READY | {"status": "unavailable"})}, "ready", "not ready"),
    (
        {"readyz": httpx2.Response(503, json={"status": "unavailable", "checks": {"samplers": "none is alive"}})},
        "samplers",
        "none is alive",
    ),
    ({"models": {"data": []}}, "models", "there are none"),
    ({"models": {"data": [MODEL | {"state": "failed"}]}}, "models", "digits is failed"),
    ({"models": problem(500, "internal", "Look at the log.")}, "gateway", "Look at the log."),
]


@pytest.mark.parametrize(("answers", "name", "remedy"), BROKEN)
def test_what_is_broken_is_a_failure_with_its_remedy(
    doctor: Any, answers: dict[str, Any], name: str, remedy: str
) -> None:
    status, found = doctor(Gateway(**answers))
    assert status == 1
    assert found[name][0] == "failure"
    assert remedy in found[name][1]


def test_an_address_that_is_none(doctor: Any) -> None:
    status, found = doctor(Gateway(), "--base-url", "gateway:8000")
    assert (status, found["address"][0]) == (1, "failure")


def test_what_may_bite_is_a_warning(doctor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    status, found = doctor(Gateway(info=INFO | {"version": "7.1.0"}))
    assert (status, found["gateway"][0]) == (0, "warning")
    _, found = doctor(Gateway(), "--base-url", "http://far.example", "--api-key", "k")
    assert found["key"] == ("warning", "the API key travels unencrypted; use an https address")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    _, found = doctor(Gateway())
    assert found["proxy"][0] == "warning"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert "proxy" not in doctor(Gateway())[1]


def test_components(doctor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        if package == "spacte-trainer":
            raise PackageNotFoundError(package)
        return __version__ if package == "spacte-service" else "9.9.9"

    monkeypatch.setattr(_checks, "version", version)
    broken = EntryPoint("train", "no_such_module_anywhere:app", "spacte.commands")
    monkeypatch.setattr(_checks, "entry_points", lambda group: (broken,))
    status, found = doctor(Gateway())
    assert status == 1
    assert found["spacte-trainer"][0] == "note"
    assert "`spacte train`" in found["spacte-trainer"][1]
    assert found["spacte-service"] == ("ok", __version__)
    assert found["spacte-workers"][0] == "warning"
    assert found["spacte train"][0] == "failure"


@pytest.mark.slow
def test_people_get_lines(spacte: Spacte, live_gateway: str) -> None:
    run = spacte("doctor", "--base-url", live_gateway)
    assert f"ok   address: {live_gateway}" in run.out
    assert "ok   models: digits" in run.out
