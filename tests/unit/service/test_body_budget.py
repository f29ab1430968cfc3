"""Promise: the bodies of all requests together take no more than their memory, and small ones still come through."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from spacte_service import Settings, create_app
from spacte_service.body_budget import BodyBudget
from spacte_service.middleware import BodyLimit
from spacte_service.problems import ProblemError

MIB = 1 << 20
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
        headers = {"Content-Type": "application/json", "Content-Length": str(self._size + 2)}
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
    assert sorted(answer.status_code for answer in answers) == [422, 422, 422, 422, 429, 429]
    assert budget.used == 0
    assert (await held.ask()).status_code == 422


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


def test_each_application_has_a_budget_of_its_settings(backend: Any) -> None:
    assert budget_of(create_app(Settings(), backend)).total == 512 * MIB
