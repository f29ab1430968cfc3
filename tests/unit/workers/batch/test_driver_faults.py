"""Promises of the driver: whatever goes wrong on the way, it waits or goes on later, and the results are the same."""

import asyncio
import errno
import os

import pytest

from spacte_client.types import JobParams
from spacte_workers.batch.main import run_folder
from spacte_workers.errors import NoWorkersError
from spacte_workers.serving.pools import LocalPool

from .conftest import IMAGES, SEED, a_driver, a_folder, a_spec, call_as_it_goes, without_times

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]


@pytest.mark.slow
async def test_stopped_and_resumed_again_and_again(tmp_path, checkpoint, undisturbed, flaky):
    folder = a_folder(tmp_path, a_spec(checkpoint))
    states = []
    for attempt in range(1, 40):
        stop = asyncio.Event()

        def after_one(done, stop=stop, before=len(without_times(folder))):
            if done > before:
                stop.set()

        driver = a_driver(folder, flaky, attempt=attempt)
        call_as_it_goes(driver, after_one)
        states.append(await driver.run(stop))
        if states[-1] == "succeeded":
            break
    assert states[-1] == "succeeded"
    assert len(states) > 2
    assert set(states[:-1]) == {"interrupted"}
    assert without_times(folder) == undisturbed


async def test_times_without_a_sampler_are_waited_out(tmp_path, checkpoint, undisturbed, flaky, monkeypatch):
    monkeypatch.setattr("spacte_workers.batch.driver.WAIT_FOR_SAMPLERS_S", 0.01)
    folder = a_folder(tmp_path, a_spec(checkpoint))
    flaky.faults = {i: [NoWorkersError("none")] * 3 for i in (0, 5, 11)}
    assert await a_driver(folder, flaky).run() == "succeeded"
    assert without_times(folder) == undisturbed
    assert flaky.calls.count(5) == 4


async def test_a_full_disk_is_waited_out(tmp_path, checkpoint, undisturbed, monkeypatch):
    """Also where half a line was written before it was full."""
    monkeypatch.setattr("spacte_workers.batch.driver.WAIT_FOR_ROOM_S", 0.01)
    write, refusals = os.write, [0]

    def write_or_refuse(fd, data):
        if bytes(data[:1]) == b"{" and refusals[0] < 3:
            refusals[0] += 1
            write(fd, data[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data)

    monkeypatch.setattr("spacte_workers.batch.results.os.write", write_or_refuse)
    folder = a_folder(tmp_path / "job", a_spec(checkpoint))
    assert await run_folder(folder, LocalPool(1)) == "succeeded"
    assert refusals == [3]
    assert without_times(folder) == undisturbed


async def test_a_broken_driver_fails_and_keeps_what_it_had(tmp_path, checkpoint, undisturbed, flaky):
    folder = a_folder(tmp_path, a_spec(checkpoint))
    flaky.faults = {6: [RuntimeError("out of luck")]}
    with pytest.raises(RuntimeError, match="out of luck"):
        await a_driver(folder, flaky).run()
    progress = folder.progress()
    assert progress["state"] == "failed"
    assert progress["error"] == {"code": "internal", "detail": "out of luck"}
    kept = without_times(folder)
    assert 6 not in kept
    assert progress["counts"]["remaining"] == IMAGES - len(kept)
    before = set(kept)
    flaky.calls.clear()
    assert await a_driver(folder, flaky, attempt=2).run() == "succeeded"
    assert not before & set(flaky.calls)
    assert without_times(folder) == undisturbed


async def test_progress_that_cannot_be_written_for_a_while_is_no_failure(
    tmp_path, checkpoint, flaky, monkeypatch, caplog
):
    from spacte_workers.batch import driver

    refusals = [OSError("no space left")] * 2

    def write_json(path, value):
        if refusals:
            raise refusals.pop()
        write(path, value)

    write = driver.write_json
    monkeypatch.setattr(driver, "write_json", write_json)
    monkeypatch.setattr(driver, "TICK_S", 0.0)
    folder = a_folder(tmp_path, a_spec(checkpoint))
    assert await a_driver(folder, flaky).run() == "succeeded"
    assert folder.progress()["state"] == "succeeded"
    assert [record.message for record in caplog.records].count("progress cannot be written: no space left") == 1


@pytest.mark.parametrize("state", ["interrupted", "cancelled"])
async def test_a_driver_that_waits_for_another_one_hears_when_it_is_to_stop(tmp_path, checkpoint, state):
    folder = a_folder(tmp_path, a_spec(checkpoint))
    stop = asyncio.Event()
    with folder.locked():
        waiting = asyncio.create_task(run_folder(folder, LocalPool(1), stop=stop))
        await asyncio.sleep(0.05)
        if state == "cancelled":
            folder.cancel_file.touch()
        else:
            stop.set()
        async with asyncio.timeout(20):
            assert await waiting == state
    assert folder.progress() == {}  # which are the other one's words


async def test_a_cancel_file_stops_it_and_the_rest_can_be_read(tmp_path, checkpoint):
    folder = a_folder(tmp_path, a_spec(checkpoint, params=JobParams(n0=20, n=100_000, seed=SEED)))
    folder.cancel_file.touch()
    assert await run_folder(folder, LocalPool(1)) == "cancelled"
    assert folder.progress()["state"] == "cancelled"
    assert folder.summary_file.exists()
    folder.cancel_file.unlink()
