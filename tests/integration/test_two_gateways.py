"""Promise: of two gateways on one database one may die: the other answers on, and ends the dead one's job."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spacte_client import Client

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.postgres, pytest.mark.timeout(400)]

SPACTE = Path(sys.executable).with_name("spacte")
SEED = "0123456789abcdef0123456789abcdef"
IMAGES = 40
N = 15_000  # so many that a driver is killed amid them
COMPARED = ("index", "label", "radius", "counts", "selection_counts", "image_sha256")


@contextlib.contextmanager
def gateway(models: Path, data: Path, database: str, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A gateway in a process of its own, and its address."""
    command = [SPACTE, "serve", "--in-process", "--models", models, "--data-dir", data, "--database", database]
    command += ["--port", 0, "--precision", "fp32", "--allow-client-seed", *options]
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("SPACTE_", "RAY_ADDRESS"))}
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True, env=variables) as process:
        try:
            assert process.stdout is not None
            url = next(line.split()[-1] for line in process.stdout if line.startswith("Serving on "))
            threading.Thread(target=process.stdout.read, daemon=True).start()  # so that the pipe never fills
            yield process, url
        finally:
            process.kill()


def wait_until(true: Callable[[], Any], seconds: float) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, f"not within {seconds:.0f} s"
        time.sleep(0.05)


def records(data: Path, job: str) -> list[dict[str, Any]]:
    file = data / "jobs" / job / "results.ndjson"
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def progress(data: Path, job: str) -> dict[str, Any]:
    return json.loads((data / "jobs" / job / "progress.json").read_text())


def compared(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(({name: record[name] for name in COMPARED} for record in records), key=lambda r: r["index"])


def digits_job(client: Client) -> str:
    return client.jobs.create({"type": "dataset", "name": "digits", "limit": IMAGES}, n=5_000, seed=SEED).id


def test_one_of_two_gateways_dies(
    tmp_path: Path, make_checkpoint: Callable[..., str], postgres_url: str, descendants: Callable[[int], set[int]]
) -> None:
    models, data = tmp_path / "models", tmp_path / "data"
    make_checkpoint(models / "digits")
    with (
        gateway(models, data, postgres_url) as first,
        gateway(models, data, postgres_url) as second,
        Client(first[1]) as one,
        Client(second[1]) as other,
    ):
        calm = digits_job(one)
        wait_until(lambda: other.jobs.get(calm).state == "succeeded", 120)
        job = digits_job(other)
        wait_until(lambda: records(data, job), 120)
        driver = progress(data, job)["pid"]
        dying, survivor = (first[0], other) if driver in descendants(first[0].pid) else (second[0], one)
        dying.kill()
        image = np.zeros((1, 8, 8), np.uint8)
        while survivor.jobs.get(job).state != "succeeded":
            assert survivor.certify(image, n=200).n == 200
    assert progress(data, job)["attempt"] == 2
    made, expected = (compared(records(data, each)) for each in (job, calm))
    assert len(made) == IMAGES
    assert made == expected


@pytest.mark.filterwarnings("default")  # of botocore's and moto's own code
def test_they_share_no_folder_where_jobs_are_in_an_object_store(
    tmp_path: Path,
    make_checkpoint: Callable[..., str],
    postgres_url: str,
    descendants: Callable[[int], set[int]],
    s3: Any,
) -> None:
    """A driver is killed, then the gateway that ran the job; the other one ends it, from what is in the bucket."""
    models = tmp_path / "models"
    make_checkpoint(models / "digits")
    np.savez(tmp_path / "set.npz", images=np.random.default_rng(0).integers(0, 256, (IMAGES, 8, 8), dtype=np.uint8))
    storage = "--job-storage=s3://bucket/spacte"
    with (
        gateway(models, tmp_path / "first", postgres_url, storage) as first,
        gateway(models, tmp_path / "second", postgres_url, storage) as second,
        Client(first[1]) as one,
        Client(second[1]) as other,
    ):
        file = one.files.upload(tmp_path / "set.npz")
        job = one.jobs.create(file, n=N, seed=SEED).id

        def driver() -> int | None:
            """The process of the job's driver."""
            of_both = {pid: each for each in (first[0], second[0]) for pid in descendants(each.pid)}
            command = f"/jobs/{job}"
            return next((pid for pid in of_both if command in Path(f"/proc/{pid}/cmdline").read_text()), None)

        def started(attempt: int, images: int) -> bool:
            now = other.jobs.get(job)
            return now.ray_submission_id == f"{job}-{attempt}" and now.counts.certified + now.counts.abstained > images

        wait_until(lambda: started(1, 0), 180)
        killed = driver()
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: started(2, 2), 180)
        running = driver()
        assert running is not None
        dying, survivor = (first[0], other) if running in descendants(first[0].pid) else (second[0], one)
        dying.kill()
        wait_until(lambda: survivor.jobs.get(job).state == "succeeded", 300)
        found = [record.model_dump() for record in survivor.jobs.results(job)]
        assert sorted(record["index"] for record in found) == list(range(IMAGES))
        again = survivor.jobs.create(file, n=N, seed=SEED).id
        wait_until(lambda: survivor.jobs.get(again).state == "succeeded", 300)
        undisturbed = [record.model_dump() for record in survivor.jobs.results(again)]
    assert compared(found) == compared(undisturbed)
