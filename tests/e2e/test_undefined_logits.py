"""Promise: an image for which a model has no answer gets no certificate, over HTTP and by a job, and is told why."""

import io
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.unit.workers.engine.test_invalid import BRIGHT, CLASSES, DARK, SHAPE, SIGMA, UndefinedOnBright

from spacte_client import Client
from spacte_client.types import ABSTAIN
from spacte_workers import save_model
from spacte_workers.certification.verify import check

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MODELS = {"nan": math.nan, "inf": math.inf}
PIXELS = np.stack([np.full(SHAPE, value, np.uint8) for value in (BRIGHT, DARK)])


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Of a gateway that serves both models."""
    folder = tmp_path_factory.mktemp("undefined")
    for name, value in MODELS.items():
        torch.manual_seed(0)
        net = UndefinedOnBright(value, heads=2).eval()
        save_model(net, folder / "models" / name, sigma=SIGMA, input_shape=SHAPE, class_names=["a", "b", "c"])
    command = [Path(sys.executable).with_name("spacte"), "serve", "--in-process", "--models", folder / "models"]
    command += ["--port", "0", "--log-level", "warning", "--data-dir", folder / "data", "--precision", "fp32"]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as gateway:
        assert gateway.stdout is not None
        found = (re.search(r"http://\S+", line) for line in gateway.stdout)
        address = next(match[0] for match in found if match)
        with Client(address.rstrip("/."), timeout=60) as client:
            yield client
        gateway.terminate()
        assert gateway.wait(40) == 0


@pytest.mark.parametrize("options", [{}, {"k_consensus": 2}, {"noise": "float"}, {"target_radius": 0.05}], ids=str)
@pytest.mark.parametrize("model", MODELS)
def test_over_http(client: Client, model: str, options: dict[str, object]) -> None:
    bright, dark = (client.certify(pixels, model=model, n0=50, n=500, **options) for pixels in PIXELS)
    assert (bright.label, bright.radius, bright.abstained) == (ABSTAIN, 0.0, True)
    assert (bright.counts, bright.invalid) == ([0] * CLASSES, bright.n)
    assert check(bright) == []
    assert (dark.label, dark.invalid) == (1, 0)


@pytest.mark.parametrize("model", MODELS)
def test_predictions(client: Client, model: str) -> None:
    predicted = client.predict(PIXELS[0], model=model, n=200)
    assert (predicted.label, predicted.invalid) == (ABSTAIN, 200)


@pytest.mark.parametrize("model", MODELS)
def test_by_a_job(client: Client, model: str) -> None:
    file = io.BytesIO()
    np.savez(file, images=PIXELS)
    uploaded = client.files.upload(file.getvalue(), filename="set.npz")
    job = client.jobs.create(uploaded, model=model, n0=50, n=500)
    done = client.jobs.wait(job.id, timeout=120)
    assert (done.state, done.counts.abstained, done.counts.certified) == ("succeeded", 1, 1)
    records = sorted(client.jobs.results(job.id), key=lambda record: record.index)
    assert [record.label for record in records] == [ABSTAIN, 1]
    assert [record.invalid for record in records] == [500, 0]
