"""Promises of drivers as processes: killed at any moment they lose nothing, and a signal stops them between images."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time

import pytest

from spacte_client.types import JobParams
from spacte_workers.batch.job_folder import JobFolderError
from spacte_workers.batch.main import run_folder
from spacte_workers.batch.results import read_results
from spacte_workers.serving.pools import LocalPool

from .conftest import IMAGES, SEED, a_folder, a_spec, without_times

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]


@pytest.fixture
def start():
    """Starts drivers as a gateway without Ray does, and leaves none behind."""
    drivers = []

    def start(folder, attempt=1):
        command = [sys.executable, "-m", "spacte_workers.batch.main", str(folder.path)]
        drivers.append(
            subprocess.Popen(
                [*command, "--pool", "local", "--samplers", "1", "--with-parent", "--attempt", str(attempt)],
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        )
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.kill()
        driver.communicate()


def wait_for_results(folder, count, process):
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if len(list(read_results(folder.results_file))) >= count:
            return
        time.sleep(0.005)
    assert process.poll() is None, process.stderr.read()


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_kill_9_at_random_moments_and_resumption_give_the_undisturbed_results(tmp_path, checkpoint, start):
    spec = a_spec(checkpoint, params=JobParams(n0=20, n=8_000, seed=SEED))
    whole = a_folder(tmp_path / "whole", spec)
    await run_folder(whole, LocalPool(1))
    folder = a_folder(tmp_path / "killed", spec)
    for attempt in (1, 2):
        driver = start(folder, attempt)
        wait_for_results(folder, 2 * attempt + secrets.randbelow(2), driver)
        driver.kill()
        driver.wait()
    kept = without_times(folder)
    last = start(folder, 3)
    _, errors = last.communicate(timeout=300)
    assert last.returncode == 0, errors
    assert without_times(folder) == without_times(whole)
    assert len(kept) >= 2
    assert json.loads(folder.summary_file.read_text()) == json.loads(whole.summary_file.read_text())


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_sigterm_stops_between_images_and_a_second_driver_is_kept_out(tmp_path, checkpoint, start):
    spec = a_spec(checkpoint, params=JobParams(n0=20, n=50_000, seed=SEED))
    folder = a_folder(tmp_path, spec)
    driver = start(folder)
    wait_for_results(folder, 1, driver)
    with pytest.raises(JobFolderError, match="Another driver"):
        await run_folder(folder, LocalPool(1), wait_s=0.1)
    driver.send_signal(signal.SIGTERM)
    _, errors = driver.communicate(timeout=60)
    assert driver.returncode == 0, errors
    assert folder.progress()["state"] == "interrupted"
    assert folder.progress()["counts"]["remaining"] == IMAGES - len(without_times(folder))
