"""Promise: a gateway under load ends in order, and one whose samplers all die says so in time and recovers by itself.

Figures are in benchmarks/results/gateway_faults.md.
"""

import concurrent.futures
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from spacte_client import Client
from spacte_client.types import Certificate
from spacte_workers.certification.verify import check

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(600)]

SPACTE = Path(sys.executable).with_name("spacte")
CALLERS = 64
TIMING_S = 0.5
"""A request sent so long before the signal has been taken in; one sent so long after it comes after it."""

PIXELS = np.random.RandomState(0).randint(0, 256, (1, 8, 8)).astype(np.uint8)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., str]) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_checkpoint(folder / "digits")
    return folder


@contextlib.contextmanager
def gateway(models: Path, data: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A gateway in a process of its own, and its address."""
    command = [SPACTE, "serve", "--models", models, "--data-dir", data, "--port", 0, "--precision", "fp32"]
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("SPACTE_", "RAY_ADDRESS"))}
    process = subprocess.Popen(
        [str(part) for part in (*command, "--log-level", "error", *options)],
        stdout=subprocess.PIPE,
        text=True,
        env=variables,
    )
    try:
        assert process.stdout is not None
        url = next((line.split()[-1] for line in process.stdout if line.startswith("Serving on ")), None)
        assert url is not None, "the gateway ended before it was ready"
        yield process, url
    finally:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(40)
        process.kill()
        process.communicate()


def npy() -> bytes:
    """The image as a file."""
    import io

    file = io.BytesIO()
    np.save(file, PIXELS)
    return file.getvalue()


def test_sigterm_under_load(models: Path, tmp_path: Path, record_property: Any) -> None:
    """64 callers: what was taken in is answered rightly, what comes later gets 503, and the exit code is 0."""
    answers: list[tuple[float, int, bytes]] = []  # when it was sent, the status (0: no connection), the body
    over = threading.Event()
    with gateway(models, tmp_path, "--in-process") as (process, url):

        def ask() -> None:
            with httpx2.Client(base_url=url, timeout=60) as http:
                while not over.is_set():
                    sent = time.monotonic()
                    form = {"files": {"image": ("d.npy", npy())}, "data": {"params": json.dumps({"n": 1_000})}}
                    try:
                        answer = http.post("/v1/certify", **form)
                    except httpx2.TransportError:
                        answers.append((sent, 0, b""))
                        time.sleep(0.2)
                        continue
                    answers.append((sent, answer.status_code, answer.content))
                    if answer.status_code != 200:
                        time.sleep(0.1)

        with concurrent.futures.ThreadPoolExecutor(CALLERS) as pool:
            callers = [pool.submit(ask) for _ in range(CALLERS)]
            time.sleep(8)
            signalled = time.monotonic()
            process.send_signal(signal.SIGTERM)
            code = process.wait(40)
            took = time.monotonic() - signalled
            over.set()
            for caller in callers:
                caller.result()
    before = Counter(status for sent, status, _ in answers if sent < signalled - TIMING_S)
    after = Counter(status for sent, status, _ in answers if sent > signalled + TIMING_S)
    figures = f"exit {code} after {took:.1f} s; sent before: {dict(before)}, after: {dict(after)}"
    record_property("sigterm", figures)
    print(figures)
    assert code == 0
    assert took < 30
    assert set(before) <= {200, 429}
    assert before[200] > 0
    assert set(after) <= {503, 0}  # 0: the port is closed by then
    assert after[503] > 0
    for _, status, body in answers:
        if status == 200:
            assert check(Certificate.model_validate_json(body)) == []
        if status == 503:
            assert json.loads(body)["code"] == "draining"


@pytest.mark.ray
def test_death_of_all_samplers_is_seen_and_mended(
    models: Path, tmp_path: Path, descendants: Callable[[int], set[int]], record_property: Any
) -> None:
    """`/readyz` turns to 503 within 10 s, a request of that time is not lost, and all is well again by itself."""

    def samplers(root: int) -> list[int]:
        found: list[int] = []
        for pid in descendants(root):
            with contextlib.suppress(OSError):
                if b"SamplerActor" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    with gateway(models, tmp_path, "--samplers", "2") as (process, url), Client(url, timeout=200) as client:
        until(lambda: len(samplers(process.pid)) == 2 and client.health().status == "ok", 200)
        for _ in range(3):
            client.certify(npy(), n=1_000)
            killed = samplers(process.pid)
            began = time.monotonic()
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
            until(lambda: client.health().status != "ok", 10)
            seen = time.monotonic() - began
            certificate = client.certify(npy(), n=1_000)  # it came while there was no sampler
            answered = time.monotonic() - began
            assert check(certificate) == []
            until(lambda: client.health().status == "ok" and len(samplers(process.pid)) == 2, 200)
            whole = time.monotonic() - began
            assert not set(killed) & set(samplers(process.pid))
            figures = f"/readyz 503 after {seen:.2f} s, next certificate {answered:.1f} s, all samplers {whole:.1f} s"
            record_property("killed", figures)
            print(figures)


def until(true: Callable[[], bool], seconds: float) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
