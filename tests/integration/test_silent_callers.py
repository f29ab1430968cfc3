"""Promise: callers who hold connections and say nothing keep nobody from being answered, and fill no log.

A gateway with 512 file descriptors faces 1,000 silent connections, 300 half heads, 200 half bodies and 100 streams that
nobody reads, all at once and from one address, which come back when they are closed.
"""

import asyncio
import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from spacte_client import Client
from spacte_workers.certification.verify import check

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(300)]

SPACTE = Path(sys.executable).with_name("spacte")
DESCRIPTORS = 512
UNDER_ATTACK_S = 20.0
HALF_BODY = (
    b"POST /v1/certify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n{"
)


@contextlib.contextmanager
def gateway(folder: Path) -> Iterator[str]:
    """A gateway with few descriptors in a process of its own; its log goes to `folder / "log"`."""
    command = [SPACTE, "serve", "--models", folder / "models", "--data-dir", folder / "data", "--port", "0"]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("SPACTE_")}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["prlimit", f"--nofile={DESCRIPTORS}", *map(str, command), "--in-process", "--precision", "fp32"],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=variables,
        )
    try:
        assert process.stdout is not None
        yield next(line.split()[-1] for line in process.stdout if line.startswith("Serving on "))
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()


async def hold(port: int, first: bytes, trickle: bytes) -> None:
    """Connect again and again, send the beginning of a request, then a byte now and then; read nothing."""
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.transport.pause_reading()  # pyright: ignore[reportAttributeAccessIssue]  it is a read transport, too
            writer.write(first)
            with contextlib.closing(writer):
                while not writer.transport.is_closing():
                    await asyncio.sleep(2)
                    writer.write(trickle)
                    if trickle == b"":
                        await asyncio.wait_for(reader.read(1), 60)
        await asyncio.sleep(0.5)


async def attack(port: int, job: str, seconds: float, ask: Callable[[], Any]) -> list[float]:
    """How long each look at `/livez` took while all of them hold what they can."""
    events = f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    parts = [
        (1000, b"", b""),
        (300, b"GET /livez HTTP/1.1\r\nHost: ", b"a"),
        (200, HALF_BODY, b" "),
        (100, events, b""),
    ]
    held = [asyncio.create_task(hold(port, first, more)) for count, first, more in parts for _ in range(count)]
    took: list[float] = []
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
        end = time.monotonic() + seconds
        asking = asyncio.create_task(asyncio.to_thread(ask))
        while time.monotonic() < end or not asking.done():
            began = time.monotonic()
            assert (await http.get("/livez", headers={"Connection": "close"})).status_code == 200
            took.append(time.monotonic() - began)
            await asyncio.sleep(0.1)
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)
    await asking
    return took


def test_an_honest_caller_is_answered_in_time(
    tmp_path: Path, make_checkpoint: Callable[..., str], record_property: Any
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 3000:
        pytest.skip("the attack needs 3,000 file descriptors: raise the hard limit (ulimit -Hn)")
    make_checkpoint(tmp_path / "models" / "digits")
    pixels = np.random.RandomState(0).randint(0, 256, (1, 8, 8)).astype(np.uint8)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 3000), hard))
    try:
        with gateway(tmp_path) as url, Client(url, timeout=60) as client:
            job = client.jobs.create({"type": "dataset", "name": "digits", "limit": 500}, n=100_000)

            def certify() -> list[Any]:
                return [client.certify(pixels, n=1_000) for _ in range(5)]

            certify()
            logged = (tmp_path / "log").stat().st_size
            certificates: list[Any] = []
            began = time.monotonic()
            took = asyncio.run(
                attack(int(url.rpartition(":")[2]), job.id, UNDER_ATTACK_S, lambda: certificates.extend(certify()))
            )
            per_minute = ((tmp_path / "log").stat().st_size - logged) / (time.monotonic() - began) * 60
            client.jobs.cancel(job.id)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    figures = {"looks": len(took), "slowest_s": round(max(took), 3), "log_bytes_a_minute": round(per_minute)}
    record_property("under attack", figures)
    print(json.dumps(figures))
    assert max(took) < 1
    assert len(certificates) == 5
    assert all(check(certificate) == [] for certificate in certificates)
    assert per_minute < 100_000
