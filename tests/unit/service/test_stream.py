"""Promise: a stream tells what is proven as it grows, each event with a certificate, until told to stop."""

import asyncio
import base64
import json
import time
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from spacte_client.types import Certificate, Problem, ProgressEvent, StartedEvent
from spacte_workers.errors import NoWorkersError


def body(image: bytes, **options: Any) -> dict[str, Any]:
    return {"image": {"type": "base64", "data": base64.b64encode(image).decode()}} | options


def events(text: str) -> list[tuple[str, Any]]:
    """Names and data of the events of a stream."""
    found: list[tuple[str, Any]] = []
    for block in filter(None, text.split("\n\n")):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


@pytest.fixture
def unhurried(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend looks so seldom that no look's news is overtaken by the next, however busy the machine."""
    monkeypatch.setattr("spacte_service.routes.stream.PERIOD_S", 0.001)
    backend.look_s = 0.25


@pytest.mark.usefixtures("unhurried")
async def test_started_progress_and_result_come_in_order(http: httpx2.AsyncClient, digit: bytes) -> None:
    answer = await http.post("/v1/certify/stream", json=body(digit, n=1000))
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    (first, started), *progress, (last, result) = events(answer.text)
    assert (first, last) == ("started", "result")
    assert StartedEvent.model_validate(started).n_max == 1000
    assert started["request_id"] == answer.headers["x-request-id"]
    assert started["looks"] > 3
    assert Certificate.model_validate(result).n == 1000
    assert [name for name, _ in progress] == ["progress"] * len(progress)
    assert [event["looks_done"] for _, event in progress] == [1, 2, 3]


@pytest.mark.usefixtures("unhurried")
async def test_each_progress_holds_the_certificate_that_stands(http: httpx2.AsyncClient, digit: bytes) -> None:
    answer = await http.post("/v1/certify/stream", json=body(digit, n=1000, deadline_ms=9000))
    progress = [ProgressEvent.model_validate(data) for name, data in events(answer.text) if name == "progress"]
    assert len(progress) == 3
    for event in progress:
        assert event.certificate is not None
        assert event.certificate.n == event.samples
        assert event.certificate.stop_reason == "cancelled"
        assert event.certificate.deadline_ms == 9000
        assert event.certificate.queue_ms >= 0


async def test_progress_is_at_most_ten_a_second(http: httpx2.AsyncClient, backend: Any, digit: bytes) -> None:
    backend.looks, backend.look_s = 100, 0.005
    began = time.monotonic()
    answer = await http.post("/v1/certify/stream", json=body(digit))
    seconds = time.monotonic() - began
    names = [name for name, _ in events(answer.text)]
    assert 3 <= names.count("progress") <= 10 * seconds + 1


async def test_a_stream_without_a_rule_gets_a_bound_that_is_valid_at_every_look(
    http: httpx2.AsyncClient, backend: Any, digit: bytes
) -> None:
    await http.post("/v1/certify/stream", json=body(digit))
    await http.post("/v1/certify/stream", json=body(digit, target_radius=0.5))
    without, with_rule = backend.params
    assert without.deadline_ms is not None
    assert without.target_radius is None
    assert (with_rule.deadline_ms, with_rule.target_radius) == (None, 0.5)


async def test_what_is_wrong_with_the_request_is_a_plain_problem(http: httpx2.AsyncClient, digit: bytes) -> None:
    answer = await http.post("/v1/certify/stream", json=body(digit, n=0))
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    answer = await http.post("/v1/certify/stream", json=body(b"no image"))
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("fault", "code"), [(NoWorkersError("No sampler is alive: try again."), "no_workers"), (KeyError(1), "internal")]
)
async def test_what_fails_later_is_an_error_event(
    http: httpx2.AsyncClient, backend: Any, digit: bytes, fault: Exception, code: str
) -> None:
    backend.fault = fault
    answer = await http.post("/v1/certify/stream", json=body(digit))
    assert answer.status_code == 200
    name, data = events(answer.text)[-1]
    assert name == "error"
    problem = Problem.model_validate(data)
    assert problem.code == code
    assert problem.instance == answer.headers["x-request-id"]


async def test_hanging_up_frees_the_samplers_and_the_place(
    app: FastAPI, backend: Any, digit: bytes, until: Any
) -> None:
    backend.gate.clear()
    gone = asyncio.Event()
    sent: list[dict[str, Any]] = []
    content = json.dumps(body(digit)).encode()
    messages = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/certify/stream",
        "raw_path": b"/v1/certify/stream",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))],
        "client": ("127.0.0.1", 1),
        "server": ("testserver", 80),
    }
    request = asyncio.create_task(app(scope, receive, send))
    await until(lambda: backend.running == 1)
    await until(lambda: b"event: started" in b"".join(message.get("body", b"") for message in sent))
    gone.set()
    await asyncio.wait_for(request, 30)
    await until(lambda: backend.cancelled == 1)
    assert app.state.gateway.admission.permits.held == 0
    assert app.state.gateway.drain.in_flight == 0


async def test_a_drain_that_runs_out_of_time_says_so_in_the_stream(
    app: FastAPI, http: httpx2.AsyncClient, backend: Any, digit: bytes, until: Any
) -> None:
    backend.gate.clear()
    stream = asyncio.create_task(http.post("/v1/certify/stream", json=body(digit)))
    plain = asyncio.create_task(http.post("/v1/certify", json=body(digit)))
    await until(lambda: backend.running == 2)
    gateway = app.state.gateway
    gateway.drain.begin()
    late = await http.post("/v1/certify/stream", json=body(digit))
    assert (late.status_code, late.json()["code"]) == (503, "draining")
    gateway.tasks.cancel_all()
    name, data = events((await stream).text)[-1]
    assert (name, data["code"]) == ("error", "draining")
    assert ((await plain).status_code, (await plain).json()["code"]) == (503, "draining")
    assert gateway.drain.in_flight == 0
