"""A job on a real gateway with a Ray of its own, from the SDK: results, cancel, resume, a dead driver."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from spacte_client import Client, ConflictError
from spacte_client.types import Job

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

SEED = "00112233445566778899aabbccddeeff"
WAIT_S = 200


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def client(
    data: Path, tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., str]
) -> Iterator[Client]:
    """Of a gateway that starts a local Ray, and runs its jobs there."""
    models = tmp_path_factory.mktemp("models")
    make_checkpoint(models / "digits")
    command = [str(Path(sys.executable).with_name("spacte")), "serve", "--models", str(models), "--port", "0"]
    command += ["--data-dir", str(data), "--log-level", "warning", "--precision", "fp32", "--samplers", "1"]
    command += ["--job-samplers-max", "1", "--allow-client-seed"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as gateway:
        assert gateway.stdout is not None
        address = next((found[0] for line in gateway.stdout if (found := re.search(r"http://\S+", line))), None)
        assert address, "the gateway ended before it was ready"
        with Client(address, timeout=60) as client:
            yield client
        gateway.send_signal(signal.SIGTERM)
        assert gateway.wait(WAIT_S) == 0


def until(client: Client, job_id: str, true: Callable[[Job], bool]) -> Job:
    deadline = time.monotonic() + WAIT_S
    while not true(job := client.jobs.get(job_id)):
        assert time.monotonic() < deadline, job
        time.sleep(0.1)
    return job


def test_an_uploaded_set_is_certified(client: Client, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 1, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=np.arange(6))
    file = client.files.upload(tmp_path / "set.npz")
    job = client.jobs.wait(client.jobs.create(file, n=500, seed=SEED).id, timeout=WAIT_S)
    assert (job.state, job.counts.total, job.counts.remaining, job.counts.errored) == ("succeeded", 6, 0, 0)
    records = {record.index: record for record in client.jobs.results(job.id)}
    assert sorted(records) == list(range(6))
    assert [records[i].true_label for i in range(6)] == list(range(6))
    summary = client.jobs.summary(job.id)
    assert (summary.images, summary.errored) == (6, 0)
    # The same noises as one by one: the driver's are those of the image's index under the job's seed.
    np.save(tmp_path / "first.npy", images[0])
    alone = client.certify(tmp_path / "first.npy", n=500, seed=SEED)
    assert alone.counts == records[0].counts


@pytest.mark.cluster  # three drivers, one after the other: a minute
def test_a_job_is_cancelled_read_killed_and_resumed_without_doing_an_image_twice(client: Client, data: Path) -> None:
    source = {"type": "dataset", "name": "digits", "limit": 12}
    job = client.jobs.create(source, n=30_000, seed=SEED)
    until(client, job.id, lambda job: job.counts.remaining < 12)
    client.jobs.cancel(job.id)
    stopped = until(client, job.id, lambda job: job.state == "cancelled")
    before = [record.index for record in client.jobs.results(job.id)]
    assert 0 < len(before) == 12 - stopped.counts.remaining < 12
    with pytest.raises(ConflictError):
        client.jobs.cancel(job.id)

    client.jobs.resume(job.id)
    progress = data / "jobs" / job.id / "progress.json"
    until(client, job.id, lambda job: job.counts.remaining < stopped.counts.remaining)
    os.kill(json.loads(progress.read_text())["pid"], signal.SIGKILL)
    dead = until(client, job.id, lambda job: job.state in ("failed", "succeeded"))
    if dead.state == "failed":
        assert dead.error is not None
        assert dead.error.code == "driver_died"
        client.jobs.resume(job.id)
    job = client.jobs.wait(job.id, timeout=WAIT_S)
    assert job.state == "succeeded"
    after = [record.index for record in client.jobs.results(job.id)]
    assert after[: len(before)] == before
    assert sorted(after) == list(range(12))
