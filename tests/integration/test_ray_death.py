"""A gateway outlives its Ray: it says so at `/readyz`, answers or refuses what is in flight, and starts Ray again."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest

from spacte_client.types import Certificate
from spacte_workers.certification.verify import check

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]

SPACTE = Path(sys.executable).with_name("spacte")


@contextlib.contextmanager
def gateway(models: Path, data: Path) -> Iterator[tuple[int, httpx2.Client]]:
    command = [SPACTE, "serve", "--models", models, "--data-dir", data, "--port", "0", "--precision", "fp32"]
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("SPACTE_", "RAY_ADDRESS"))}
    with subprocess.Popen(
        [*map(str, command), "--samplers", "1"], stdout=subprocess.PIPE, text=True, env=variables
    ) as process:
        try:
            assert process.stdout is not None
            url = next(line.split()[-1] for line in process.stdout if line.startswith("Serving on "))
            # What follows on the pipe is the log; a full pipe would stop the gateway.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            with httpx2.Client(base_url=url, timeout=200) as http:
                yield process.pid, http
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()


def pid_of(name: str, among: set[int]) -> int:
    for pid in among:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                return pid
    raise AssertionError(f"no {name}")


def certify(http: httpx2.Client, n: int = 1_000) -> httpx2.Response:
    file = io.BytesIO()
    np.save(file, np.zeros((1, 8, 8), np.uint8))
    form = {"files": {"image": ("d.npy", file.getvalue())}, "data": {"params": json.dumps({"n": n})}}
    return http.post("/v1/certify", **form)


def until(true: Callable[[], bool], seconds: float) -> float:
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, "waited too long"
        time.sleep(0.1)
    return time.monotonic() - began


def test_a_gateway_outlives_raylet_and_gcs(
    tmp_path: Path, make_checkpoint: Callable[..., str], descendants: Callable[[int], set[int]]
) -> None:
    make_checkpoint(tmp_path / "models" / "digits")
    with gateway(tmp_path / "models", tmp_path / "data") as (pid, http):
        for name in ("raylet", "gcs_server"):
            until(lambda: http.get("/readyz").status_code == 200, 120)
            assert certify(http).status_code == 200
            answers: list[httpx2.Response] = []
            caller = threading.Thread(target=lambda: answers.append(certify(http, 1_000_000)))  # noqa: B023
            caller.start()
            time.sleep(0.3)
            killed = pid_of(name, descendants(pid))
            os.kill(killed, signal.SIGKILL)
            seen = until(lambda: http.get("/readyz").status_code == 503, 10)
            back = until(lambda: http.get("/readyz").status_code == 200, 120)
            caller.join(120)
            answer = answers[0]
            print(
                f"{name}: /readyz 503 after {seen:.1f} s, 200 after {back:.1f} s more, in flight {answer.status_code}"
            )
            assert answer.status_code in (200, 503)
            if answer.status_code == 503:
                assert int(answer.headers["retry-after"]) > 0
                answer = certify(http)
            assert check(Certificate.model_validate_json(answer.content)) == []


def test_of_two_versions_the_one_whose_files_are_gone_is_withdrawn(
    tmp_path: Path, make_checkpoint: Callable[..., str], descendants: Callable[[int], set[int]]
) -> None:
    old = make_checkpoint(tmp_path / "models" / "digits", seed=1)
    with gateway(tmp_path / "models", tmp_path / "data") as (pid, http):
        new = make_checkpoint(tmp_path / "models" / "digits", seed=2)

        def versions() -> list[str]:
            return [share["version"] for share in http.get("/v1/models/digits").json()["traffic"]]

        assert http.post("/v1/models/digits/load", json={"traffic": 0.1}).status_code == 202
        until(lambda: versions() == [old, new], 120)
        os.kill(pid_of("raylet", descendants(pid)), signal.SIGKILL)
        until(lambda: versions() == [new], 200)
        until(lambda: http.get("/readyz").status_code == 200, 120)
        answers = [certify(http, 100) for _ in range(20)]  # nine in ten were the old one's
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.json()["model_version"] for answer in answers} == {new}
        assert old[:12] in http.get("/v1/models/digits").json()["reason"]
