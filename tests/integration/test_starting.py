"""Promise: the port is open while models load, tells how far they are, and each model answers once it is loaded."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from spacte_client.types import Problem

pytestmark = pytest.mark.slow

SPACTE = Path(sys.executable).with_name("spacte")
HEAVY = Path(__file__).parents[2] / "models" / "cifar10-fast-spacte-consistency-0.25"
LIVEZ_S = 2.0
WAIT_S = 240


class Starting:
    """A gateway that has just been started, and its log so far."""

    def __init__(self, models: Path, folder: Path, *options: str) -> None:
        command = [SPACTE, "serve", "--models", models, "--port", "0", "--log-format", "json", *options]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SPACTE_")}
        environment["SPACTE_LOAD_CACHE"] = "off"
        self.process = subprocess.Popen(
            [*map(str, command), "--data-dir", str(folder)], stderr=subprocess.PIPE, text=True, env=environment
        )
        self.log: list[dict[str, Any]] = []
        self._reading = threading.Thread(target=self._read)
        self._reading.start()
        listening = self.until(lambda: next((line for line in self.log if line["event"].startswith("listening")), None))
        self.http = httpx2.Client(base_url=listening["url"], timeout=LIVEZ_S)

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.log.extend(map(json.loads, self.process.stderr))

    def until(self, found: Callable[[], Any]) -> Any:
        """What is found once it is."""
        end = time.monotonic() + WAIT_S
        while not (it := found()):
            assert time.monotonic() < end, "waited too long"
            assert self.process.poll() is None, self.log
            time.sleep(0.05)
        return it

    def models(self) -> dict[str, dict[str, Any]]:
        return {model["name"]: model for model in self.http.get("/v1/models").json()["data"]}

    def certify(self, model: str, side: int, channels: int) -> httpx2.Response:
        pixels = np.zeros((side, side, channels), np.uint8)[..., 0 if channels == 1 else slice(None)]
        form = {"params": json.dumps({"model": model, "n": 100})}
        return self.http.post("/v1/certify", files={"image": ("a.png", _png(pixels))}, data=form, timeout=WAIT_S)

    def end(self) -> float:
        """Ask it to stop; the seconds that it took, after a clean end."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0
        self._reading.join()
        assert not [line for line in self.log if line["level"] in ("error", "critical")]
        return time.monotonic() - began

    def close(self) -> None:
        self.http.close()
        self.process.kill()
        self.process.wait()
        self._reading.join()
        if self.process.stderr:
            self.process.stderr.close()


def _png(pixels: np.ndarray) -> bytes:
    import io

    from PIL import Image as Pillow

    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(params=["--in-process", pytest.param("--no-in-process", marks=pytest.mark.ray)])
def starting(request: pytest.FixtureRequest, tmp_path: Path, make_checkpoint: Callable[..., str]) -> Iterator[Starting]:
    """Three models that take long, one that does not, and one that is broken."""
    models = tmp_path / "models"
    for name in ("one", "two", "three"):
        shutil.copytree(HEAVY, models / name)
    make_checkpoint(models / "digits")
    make_checkpoint(models / "broken")
    (models / "broken" / "config.json").write_text("{}")
    gateway = Starting(models, tmp_path / "data", request.param)
    yield gateway
    gateway.close()


def test_it_answers_while_models_load(starting: Starting) -> None:
    health: list[float] = []

    def live() -> None:
        began = time.monotonic()
        assert starting.http.get("/livez").status_code == 200
        health.append(time.monotonic() - began)

    live()
    first = starting.until(lambda: live() or (starting.models() or None))
    assert {first[name]["state"] for name in ("one", "two", "three", "digits")} == {"loading"}
    answer = starting.certify("one", 32, 3)
    problem = Problem.model_validate_json(answer.content)
    assert (problem.status, problem.code) == (503, "model_loading")
    assert int(answer.headers["Retry-After"]) >= 1

    broken = starting.until(lambda: live() or ((b := starting.models()["broken"])["state"] == "failed" and b))
    assert "config.json" in broken["reason"]
    ready = starting.until(lambda: live() or ((d := starting.models()["digits"])["state"] == "ready" and d))
    assert ready["progress"] is None
    assert starting.certify("digits", 8, 1).status_code == 200
    step = starting.until(lambda: live() or _steps(starting) & {"reading", "checking", "kernels"})
    assert step

    ready_yet = starting.http.get("/readyz")
    assert ready_yet.status_code == 503
    told = ready_yet.json()["checks"]["models"]
    assert all(f"{name} (step " in told for name in ("one", "two", "three"))
    assert "digits" not in told
    assert "broken" not in told
    assert any(line["event"].startswith("Model digits is loaded after") for line in starting.log)
    assert max(health) < LIVEZ_S
    assert starting.end() < 20


def _steps(starting: Starting) -> set[str]:
    models = starting.models()
    return {models[name]["progress"]["step"] for name in ("one", "two", "three") if models[name]["progress"]}


def test_a_signal_before_the_samplers_are_up_ends_it(starting: Starting) -> None:
    assert starting.http.get("/readyz").status_code == 503
    assert starting.end() < 40
