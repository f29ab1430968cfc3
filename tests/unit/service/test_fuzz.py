"""Promise: ten thousand broken bodies get an answer below 500 each, in time and without growing memory."""

import asyncio
import base64
import io
import json
import random
import resource
from collections import Counter
from typing import Any

import httpx2
import numpy as np
import pytest
from benchmarks.fuzz import mutated
from PIL import Image as Pillow

from spacte_service import Settings, create_app

pytestmark = pytest.mark.long

BODIES = 10_000
SECONDS_EACH = 20
GROWTH_MIB = 96
"""Pillow's and Python's arenas settle within this; ten thousand bodies kept would be four times as much."""

BOUNDARY = b"limit"


def pictures() -> list[bytes]:
    """One good file of every kind that is read."""
    pixels = np.random.RandomState(0).randint(0, 256, (8, 8)).astype(np.uint8)
    found: list[bytes] = []
    for kind, mode in (("PNG", "L"), ("PNG", "RGB"), ("PNG", "P"), ("PNG", "LA"), ("JPEG", "L"), ("WEBP", "RGB")):
        file = io.BytesIO()
        Pillow.fromarray(pixels).convert("RGB").convert(mode).save(file, kind)
        found.append(file.getvalue())
    for array in (pixels[None], (pixels[None] / 255).astype(np.float32), pixels):
        file = io.BytesIO()
        np.save(file, array)
        found.append(file.getvalue())
    return found


def form(image: bytes, params: bytes) -> bytes:
    part = b"--" + BOUNDARY + b"\r\nContent-Disposition: form-data; name="
    return (
        part
        + b'"image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
        + image
        + b"\r\n"
        + part
        + b'"params"\r\n\r\n'
        + params
        + b"\r\n--"
        + BOUNDARY
        + b"--\r\n"
    )


def document(image: bytes, chance: random.Random) -> bytes:
    fields: dict[str, Any] = {"image": {"type": "base64", "data": base64.b64encode(image).decode()}}
    for name in ("n", "n0", "alpha", "model", "bound", "noise", "tolerance", "deadline_ms", "resize", "seed"):
        if chance.random() < 0.15:
            fields[name] = chance.choice(
                (0, 1, -1, 10, 0.5, 1e-9, 2**31, 2**63, 10**30, True, None, "", "digits", "grid", [], {}, [[]])
            )
    return json.dumps(fields).encode()


def request_of(chance: random.Random, files: list[bytes]) -> tuple[bytes, str]:
    """A body and its content type."""
    image = mutated(chance.choice(files), chance, files)
    params = json.dumps({"n": 10, "resize": chance.random() < 0.5}).encode()
    match chance.randrange(5):
        case 0:
            return document(image, chance), "application/json"
        case 1:
            return mutated(document(image, chance), chance, files), "application/json"
        case 2:
            return form(image, params), "multipart/form-data; boundary=limit"
        case 3:
            return mutated(form(image, params), chance, files), "multipart/form-data; boundary=limit"
        case _:
            return form(image, mutated(params, chance, files)), "multipart/form-data; boundary=limit"


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.slow
async def test_broken_bodies_are_survived(backend: Any) -> None:
    chance = random.Random(20)
    files = pictures()
    seen: Counter[int] = Counter()
    app = create_app(Settings(), backend)
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://testserver") as http:

        async def send(content: bytes, kind: str) -> httpx2.Response:
            path = chance.choice(("/v1/certify", "/v1/predict"))
            async with asyncio.timeout(SECONDS_EACH):
                return await http.post(path, content=content, headers={"Content-Type": kind})

        before = 0.0
        for i in range(BODIES):
            content, kind = request_of(chance, files)
            answer = await send(content, kind)
            seen[answer.status_code] += 1
            assert answer.status_code < 500, (kind, content, answer.text)
            assert answer.status_code == 200 or answer.json()["instance"] == answer.headers["x-request-id"]
            if i == BODIES // 5:
                before = peak_mib()
        assert peak_mib() - before < GROWTH_MIB
        assert (await send(form(files[0], b'{"n": 10}'), "multipart/form-data; boundary=limit")).status_code == 200
    assert app.state.gateway.admission.permits.held == app.state.gateway.drain.in_flight == 0
    assert {200, 400, 422} <= seen.keys()
    assert seen[200] > BODIES / 50
