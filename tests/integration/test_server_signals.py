"""A server that runs on Ray drains on SIGTERM: Ray must not have taken the signal from it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

SERVER = """
import contextlib, sys
import fastapi, uvicorn
from spacte_client.types import CertifyParams
from spacte_workers.cluster import RayPool, RaySettings
from spacte_workers.serving.runtime import Runtime
from spacte_workers.shards import Image

folder, port, address = sys.argv[1:]
pool = RayPool(RaySettings(address=address or None, num_cpus=1, num_gpus=0), max_samplers=1, threads=1)
runtime = Runtime(folder, pool, precision="fp32")

@contextlib.asynccontextmanager
async def lifespan(app):
    await runtime.start()
    yield
    await runtime.stop()
    print("shut down", flush=True)

app = fastapi.FastAPI(lifespan=lifespan)

at_work = 0

@app.get("/certify")
async def certify(n: int):
    global at_work
    image = Image(bytes(64), (1, 8, 8), "uint8")
    at_work += 1
    answer = await runtime.certify(image, CertifyParams(n=n), request_id="req")
    at_work -= 1
    return {"n": answer.n}

@app.get("/at-work")
async def look():
    return at_work

uvicorn.run(app, port=int(port), timeout_graceful_shutdown=60)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., str]) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_checkpoint(folder / "digits")
    return folder


@contextlib.contextmanager
def server(models: Path, address: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", SERVER, str(models), str(port), address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            url = f"http://127.0.0.1:{port}/"
            deadline = time.monotonic() + 200
            while True:
                with contextlib.suppress(OSError):
                    fetch(url + "certify?n=10")
                    break
                assert process.poll() is None, "the server ended before it answered"
                assert time.monotonic() < deadline, "the server did not answer"
                time.sleep(0.2)
            yield process, url
        finally:
            process.kill()


def fetch(url: str) -> tuple[int, bytes]:
    with urllib.request.urlopen(url, timeout=120) as response:
        return response.status, response.read()


@pytest.mark.long
@pytest.mark.parametrize("joins", [False, True], ids=["a Ray of its own", "a cluster it joins"])
def test_sigterm_lets_the_request_in_flight_finish_and_the_shutdown_run(
    models: Path, joins: bool, request: pytest.FixtureRequest, descendants: Callable[[int], set[int]]
) -> None:
    address = ""
    if joins:
        request.getfixturevalue("local_ray")
        import ray

        address = ray.get_runtime_context().gcs_address
    with server(models, address) as (process, url):
        started = descendants(process.pid)
        status: list[int] = []
        caller = threading.Thread(target=lambda: status.append(fetch(url + "certify?n=100000")[0]))
        caller.start()
        while fetch(url + "at-work")[1] != b"1":
            assert caller.is_alive()
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=100)
        caller.join(10)
    assert status == [200]
    assert "shut down" in output
    if not joins:
        assert started
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in started):
            time.sleep(0.1)
        assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
