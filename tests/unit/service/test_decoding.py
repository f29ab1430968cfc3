"""Promise: an image that kills, stops or fills its decoder gets a 400 over HTTP, and nobody else notices."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from spacte_core.preprocessing import Asked
from spacte_service.decoding import Decoding
from spacte_workers.decoding import Decoders, decoders
from spacte_workers.shards import Image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
PROCESSES = 2


@pytest.fixture
async def decoding(app: FastAPI, backend: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Decoding]:
    """The application's decoding processes, which fail where a file says so; the backend decodes in them."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(decoders, "IMAGE_S", 1.0)
    decoding: Decoding = app.state.gateway.decoding
    decoding.pictures = Decoders(PROCESSES, 64 << 20, tasks="tests.faulty_tasks")

    def decode(model: str | None, data: bytes, asked: Asked | None = None) -> Image:
        return decoding.image(data, input_shape=(1, 8, 8), stated=None, asked=asked)

    monkeypatch.setattr(backend, "decode", decode)
    yield decoding
    decoding.close()


async def ask(http: httpx2.AsyncClient, path: str, image: bytes) -> httpx2.Response:
    form = {"files": {"image": ("a.png", image)}, "data": {"params": json.dumps({"n": 10})}}
    return await http.post(f"/v1/{path}", **form)


@pytest.mark.parametrize("path", ["certify", "predict", "brackets", "certify/stream"])
@pytest.mark.parametrize("fault", ["abort", "allocate", "raise"])
async def test_a_fault_is_a_400(
    http: httpx2.AsyncClient, decoding: Decoding, digit: bytes, path: str, fault: str
) -> None:
    answer = await ask(http, path, fault.encode())
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_image"), answer.text
    assert answer.json()["errors"][0]["pointer"] == "/image"
    assert (await ask(http, path, digit)).status_code == 200
    assert decoding.pictures.lost == (fault == "abort")


@pytest.mark.slow
async def test_honest_callers_beside_images_that_never_end(
    http: httpx2.AsyncClient, decoding: Decoding, digit: bytes
) -> None:
    """Three images keep the decoders busy until their time is up; the others wait no longer than that."""
    await ask(http, "predict", digit)
    hostile = [asyncio.create_task(ask(http, "predict", b"sleep")) for _ in range(3)]
    answers = [(await ask(http, "predict", digit)).status_code for _ in range(20)]
    assert answers == [200] * 20
    assert [answer.status_code for answer in await asyncio.gather(*hostile)] == [400] * 3
