"""Promise: what callers send takes no more of a gateway's memory than its setting says, and the memory comes back."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

MIB = 1 << 20
HELD = 60
BODY = 15 * MIB
MEMORY = 512 * MIB  # of which a quarter is for bodies
SLACK = 48 * MIB  # buffers of 60 connections, and what the allocator keeps

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def options() -> tuple[str, ...]:
    """Of the gateway."""
    return "--memory-bytes", str(MEMORY), "--body-timeout-s", "8"


def resident(address: str) -> int:
    """Bytes that the gateway takes, by its own metrics."""
    found = re.search(r"^process_resident_memory_bytes (\S+)", httpx2.get(f"{address}/metrics").text, re.MULTILINE)
    assert found
    return int(float(found[1]))


async def hold(address: str) -> list[int]:
    """The statuses of many bodies whose last byte never comes."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(BODY // MIB):
            yield b" " * MIB
        await asyncio.sleep(60)
        yield b"}"

    async def ask(http: httpx2.AsyncClient) -> int:
        headers = {"Content-Type": "application/json", "Content-Length": str(BODY + 1)}
        try:
            return (await http.post("/v1/certify", content=pieces(), headers=headers)).status_code
        except httpx2.TransportError:  # answered and closed while the body was on its way
            return 0

    limits = httpx2.Limits(max_connections=HELD)
    async with httpx2.AsyncClient(base_url=address, timeout=60, limits=limits) as http:
        return await asyncio.gather(*(ask(http) for _ in range(HELD)))


@pytest.fixture(scope="module")
def peak(address: str) -> tuple[int, int, list[int]]:
    """Memory before and at most, and the statuses."""

    async def measure() -> tuple[int, int, list[int]]:
        before = most = resident(address)
        held = asyncio.create_task(hold(address))
        while not held.done():
            most = max(most, await asyncio.to_thread(resident, address))
            await asyncio.sleep(0.1)
        return before, most, held.result()

    return asyncio.run(measure())


def test_held_bodies_stay_within_the_memory(peak: tuple[int, int, list[int]]) -> None:
    before, most, statuses = peak
    assert most - before < MEMORY // 4 + SLACK
    assert set(statuses) <= {0, 400, 429}
    assert statuses.count(400) == 7, statuses  # as many as fit into seven eighths, with all their bytes but one


def test_the_memory_comes_back(address: str, peak: tuple[int, int, list[int]]) -> None:
    before, _, _ = peak
    end = time.monotonic() + 20
    while resident(address) - before > SLACK:
        assert time.monotonic() < end, resident(address) - before
        time.sleep(0.2)


def test_an_honest_certificate_afterwards(address: str, models: Path, peak: object) -> None:
    sample = next((models / "digits" / "samples").iterdir()).read_bytes()
    form = {"files": {"image": ("a.png", sample)}, "data": {"params": json.dumps({"n": 100})}}
    assert httpx2.post(f"{address}/v1/certify", timeout=60, **form).status_code == 200
