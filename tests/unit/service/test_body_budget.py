"""Promise: the bodies of all requests together take no more than their memory, and small ones still come through."""

import asyncio
import base64
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from spacte_service import Settings, create_app
from spacte_service.bodies import parse_json
from spacte_service.body_budget import BodyBudget, parsing_bytes
from spacte_service.middleware import BodyLimit
from spacte_service.problems import ProblemError

KIB = 1024
MIB = 1024 * KIB
MEMORY = 64 * MIB  # of which a quarter is for bodies: 16 MiB, and 14 for large ones
BODY = 3 * MIB


def budget_of(app: FastAPI) -> BodyBudget:
    return next(each.kwargs["budget"] for each in app.user_middleware if each.cls is BodyLimit)


@pytest.fixture
def settings() -> Settings:
    return Settings(memory_bytes=MEMORY)


class HeldBodies:
    """Requests whose last byte does not come before `over` is set."""

    def __init__(self, http: httpx2.AsyncClient, size: int) -> None:
        self.over = asyncio.Event()
        self._http, self._size = http, size

    async def _pieces(self) -> AsyncIterator[bytes]:
        for _ in range(self._size // MIB):
            yield b" " * MIB
        await self.over.wait()
        yield b"{}"  # no image

    async def ask(self) -> httpx2.Response:
        headers = {"Content-Type": "image/png", "Content-Length": str(self._size + 2)}
        return await self._http.post("/v1/certify", content=self._pieces(), headers=headers)


async def test_bodies_beyond_the_memory_are_told_when_to_come_back(
    http: httpx2.AsyncClient, app: FastAPI, digit: bytes, until: Callable[..., Any]
) -> None:
    budget, held = budget_of(app), HeldBodies(http, BODY)
    requests = [asyncio.create_task(held.ask()) for _ in range(6)]
    await until(lambda: sum(request.done() for request in requests) == 2)
    assert budget.used == 4 * (BODY + 2)
    for request in requests:
        if request.done():
            refused = request.result()
            assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
            assert refused.headers["retry-after"] == "2"
    form = {"files": {"image": ("a.png", digit)}, "data": {"params": json.dumps({"n": 10})}}
    assert (await http.post("/v1/certify", **form)).status_code == 200
    held.over.set()
    answers = await asyncio.gather(*requests)
    assert sorted(answer.status_code for answer in answers) == [400, 400, 400, 400, 429, 429]
    assert budget.used == 0
    assert (await held.ask()).status_code == 400


async def test_a_body_counts_until_its_request_is_answered(
    http: httpx2.AsyncClient, app: FastAPI, backend: Any, digit: bytes, until: Callable[..., Any]
) -> None:
    backend.gate.clear()
    body = {"image": {"type": "base64", "data": base64.b64encode(digit).decode()}}
    working = asyncio.create_task(http.post("/v1/certify", json=body))
    await until(lambda: backend.running)
    assert budget_of(app).used == len(json.dumps(body, separators=(",", ":")))
    backend.gate.set()
    assert (await working).status_code == 200
    assert budget_of(app).used == 0


async def test_uploads_are_written_to_disk_and_take_little(
    make_http: Callable[..., httpx2.AsyncClient], tmp_path: Any
) -> None:
    http = make_http(Settings(memory_bytes=MEMORY, data_dir=tmp_path))
    answer = await http.post("/v1/files", files={"file": ("a.npz", b"\x93NUMPY" + bytes(20 * MIB))})
    assert answer.status_code == 200


async def test_the_last_part_is_for_small_bodies() -> None:
    budget = BodyBudget(80 * MIB)
    with budget.body(70 * MIB) as large, budget.body(MIB) as small, budget.body(2 * MIB) as more:
        large.grow(MIB + 1)
        assert budget.used == 70 * MIB
        small.grow(MIB)
        more.grow(MIB)
        with pytest.raises(ProblemError, match="no memory for a body"):
            more.grow(MIB + 1)
        assert budget.used == 72 * MIB
    assert budget.used == 0


async def test_json_of_many_lists_is_refused(http: httpx2.AsyncClient) -> None:
    """Ten megabytes of empty lists would take two hundred."""
    content = b'{"image": [' + b"[]," * 3_000_000 + b"0]}"
    answer = await http.post("/v1/certify", content=content, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")


@pytest.mark.parametrize("route", ["/v1/certify", "/v1/predict", "/v1/jobs", "/v2/models/digits/infer"])
async def test_json_that_grows_beyond_the_memory_is_refused(http: httpx2.AsyncClient, app: FastAPI, route: str) -> None:
    content = b'{"image": [' + b"300," * (256 * KIB) + b"0]}"
    answer = await http.post(route, content=content, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
    assert "send the image as a file" in answer.json()["detail"]
    assert budget_of(app).used == 0


async def test_json_waits_its_turn_for_the_memory() -> None:
    budget, raw = BodyBudget(16 * MIB), b"[" + b"1," * (100 * KIB) + b"1]"
    with budget.body(MIB) as one, budget.body(MIB) as other:
        with one.parsing(raw), one.parsing(raw), pytest.raises(ProblemError) as refused, other.parsing(raw):
            pass
        assert (refused.value.code, refused.value.retry_after_s) == ("overloaded", 2.0)
        assert budget.used == 0
        with other.parsing(raw):
            assert budget.used == parsing_bytes(raw)


JSON = {
    "numbers": b"[" + b"300," * 50_000 + b"0]",
    "fractions": b"[" + b"1.5," * 50_000 + b"0]",
    "names": b"[" + b",".join(b'"%x"' % i for i in range(50_000)) + b"]",
    "lists": b"[" + b"[[]]," * 25_000 + b"0]",
    "objects": b"[" + b",".join(b'{"%d":300}' % i for i in range(50_000)) + b"]",
    "a wide character": b'{"a":"' + b"a" * 200_000 + b'\\ud83d\\ude00"}',
    "a wide byte": b'{"a":"' + b"a" * 200_000 + '\N{GRINNING FACE}"}'.encode(),
    "base64": b'{"a":"' + b"a" * 200_000 + b'"}',
}


@pytest.mark.parametrize("kind", JSON)
def test_parsing_takes_no_more_than_it_counts(kind: str) -> None:
    tracemalloc.start()
    try:
        parse_json(JSON[kind])
        assert tracemalloc.get_traced_memory()[1] <= parsing_bytes(JSON[kind])
    finally:
        tracemalloc.stop()


async def test_options_are_no_large_part_of_a_form(http: httpx2.AsyncClient, digit: bytes) -> None:
    files = {"image": ("a.png", digit), "params": ("params.json", b" " * (65 * KIB) + b"{}")}
    answer = await http.post("/v1/certify", files=files)
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")


def test_each_application_has_a_budget_of_its_settings(backend: Any) -> None:
    assert budget_of(create_app(Settings(), backend)).total == 512 * MIB
