"""Promises of the driver: every image once, the same result whatever happens, bad rows are results too."""

import asyncio
import errno
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from tests.odd_pictures import colour, saved

from spacte_client.types import JobParams, JobSummary
from spacte_workers.batch.driver import Driver
from spacte_workers.batch.inputs import InputError, InputSpec, open_source
from spacte_workers.batch.job_folder import JobFolder, JobFolderError, JobSpec
from spacte_workers.batch.main import run_folder
from spacte_workers.batch.results import read_results
from spacte_workers.batch.summary import summarize_folder
from spacte_workers.decoding import Decoders
from spacte_workers.errors import NoWorkersError, RuntimeFault
from spacte_workers.images import decode_image
from spacte_workers.serving.pools import LocalPool
from spacte_workers.serving.runtime import Runtime

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

SEED = "00112233445566778899aabbccddeeff"
IMAGES = 12
TIMES = ("begun", "elapsed_ms", "queue_ms", "created_at", "previous_sha256")  # the last is a hash over the others


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, make_checkpoint):
    folder = tmp_path_factory.mktemp("models") / "digits"
    return folder, make_checkpoint(folder)


def a_spec(made, **changes):
    folder, version = made
    values = {
        "id": "job_1",
        "model": "digits",
        "model_version": version,
        "checkpoint": str(folder),
        "precision": "fp32",
        "input": InputSpec("dataset", "digits", limit=IMAGES),
        "params": JobParams(n0=20, n=200, seed=SEED),
        "seed_source": "caller",
    }
    return JobSpec(**(values | changes))


def a_folder(path, spec):
    folder = JobFolder(path)
    folder.create(spec)
    return folder


def without_times(folder):
    """Everything in the log but the times, by index; an index that is there twice fails."""
    found = {}
    for record in read_results(folder.results_file):
        assert record["index"] not in found
        found[record["index"]] = {name: value for name, value in record.items() if name not in TIMES}
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, checkpoint):
    folder = a_folder(tmp_path_factory.mktemp("job"), a_spec(checkpoint))
    assert asyncio.run(run_folder(folder, LocalPool(1))) == "succeeded"
    return without_times(folder)


async def test_every_image_once_with_its_true_class(undisturbed):
    from spacte_core.data.digits import load_digits

    _, labels = load_digits("test")
    assert sorted(undisturbed) == list(range(IMAGES))
    for index, record in undisturbed.items():
        assert record["true_label"] == labels[index]
        assert record["image_index"] == index
        assert record["id"] == f"job_1-{index}"
        assert record["correct"] == (record["label"] == labels[index])
        assert sum(record["counts"]) == 200
        assert record["seed"] == SEED
    assert len({tuple(record["selection_counts"]) for record in undisturbed.values()}) > 1


@pytest.mark.slow
async def test_the_number_of_samplers_changes_nothing(tmp_path, checkpoint, undisturbed):
    folder = a_folder(tmp_path, a_spec(checkpoint))
    await run_folder(folder, LocalPool(3))
    assert without_times(folder) == undisturbed


@pytest.mark.slow
async def test_an_image_is_certified_as_the_same_image_alone(checkpoint, undisturbed):
    from spacte_core.data.digits import load_digits
    from spacte_workers import LocalCertifier

    alone = LocalCertifier(checkpoint[0], precision="fp32")
    certificate = alone.certify(load_digits("test")[0][0], n0=20, n=200, seed=SEED)
    assert undisturbed[0]["counts"] == certificate.counts
    assert undisturbed[0]["radius"] == certificate.radius


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
        driver._keep = _and_then(driver._keep, driver, after_one)
        states.append(await driver.run(stop))
        if states[-1] == "succeeded":
            break
    assert states[-1] == "succeeded"
    assert len(states) > 2
    assert set(states[:-1]) == {"interrupted"}
    assert without_times(folder) == undisturbed


def _and_then(keep, driver, callback):
    async def wrapped(first, stop):
        await keep(first, stop)
        callback(len(driver._log.finished))

    return wrapped


class Flaky:
    """A certifier in front of the real one, for what real ones do rarely."""

    def __init__(self, runtime):
        self.runtime = runtime
        self.calls = []
        self.faults = {}

    def decode(self, model, data, asked=None):
        return decode_image(data, input_shape=(1, 8, 8), asked=asked)

    async def certify(self, image, params, *, image_index, priority, **options):
        self.calls.append(image_index)
        assert priority == "batch"
        if faults := self.faults.get(image_index):
            raise faults.pop()
        return await self.runtime.certify(image, params, image_index=image_index, priority=priority, **options)

    async def adversarial(self, image, spec, model):
        return await self.runtime.adversarial(image, spec, model)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runtime(checkpoint):
    runtime = Runtime(checkpoint[0], LocalPool(1), precision="fp32", allow_client_seed=True)
    await runtime.start()
    yield runtime
    await runtime.stop()


@pytest.fixture
def flaky(runtime):
    return Flaky(runtime)


def a_driver(folder, certifier, **changes):
    spec = folder.spec()
    source = open_source(spec.input, (1, 8, 8))
    values = {"input_shape": (1, 8, 8), "samplers": lambda: 1}
    return Driver(folder, spec, source, certifier, **(values | changes))


@pytest.mark.slow
async def test_certificates_are_attacked_alike_by_every_driver(tmp_path, checkpoint, flaky):
    """The summary says how wide the brackets are; a driver that carries on finds what the first would have found."""
    spec = a_spec(checkpoint, params=JobParams(n0=20, n=1_000, seed=SEED, n_upper=2_000))
    calm = a_folder(tmp_path / "calm", spec)
    assert await run_folder(calm, LocalPool(1)) == "succeeded"
    disturbed, stop = a_folder(tmp_path / "disturbed", spec), asyncio.Event()
    driver = a_driver(disturbed, flaky)
    driver._keep = _and_then(driver._keep, driver, lambda done: stop.set())
    assert await driver.run(stop) == "interrupted"
    assert await run_folder(disturbed, LocalPool(1)) == "succeeded"
    found = without_times(calm)
    assert without_times(disturbed) == found
    attacked = [record for record in found.values() if record["attack_noises"] is not None]
    assert len(attacked) == sum(record["radius"] > 0 for record in found.values()) > 0
    assert all(record["upper"] is None or record["upper"] > record["radius"] for record in attacked)
    brackets = summarize_folder(calm).brackets
    gaps = [record["upper"] - record["radius"] for record in attacked if record["upper"] is not None]
    assert (brackets.images, brackets.bounded) == (len(attacked), len(gaps))
    for narrow in brackets.narrower:
        assert narrow.share == sum(gap < narrow.width for gap in gaps) / len(attacked)
    assert brackets.narrower[-1].share == len(gaps) / len(attacked)


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


@pytest.mark.slow
async def test_bad_rows_are_results_with_their_reason(tmp_path, checkpoint):
    images = np.random.default_rng(1).random((4, 1, 8, 8)).astype(np.float32)
    images[1] = 7.0
    images[2] = np.round(images[2] * 255) / 255
    np.savez(tmp_path / "set.npz", images=images, labels=[3, 1, 4, 1])
    spec = a_spec(checkpoint, input=InputSpec("file", str(tmp_path / "set.npz")))
    folder = a_folder(tmp_path / "job", spec)
    assert await run_folder(folder, LocalPool(1)) == "succeeded"
    records = {record["index"]: record for record in read_results(folder.results_file)}
    assert {i: record["outcome"] == "errored" for i, record in records.items()} == {
        0: True,  # between the steps of the 8-bit grid
        1: True,
        2: False,
        3: True,
    }
    assert records[1]["error"]["code"] == "bad_image"
    assert "must lie in [0, 1]" in records[1]["error"]["detail"]
    assert records[0]["error"]["code"] == "validation_failed"
    assert [records[i]["true_label"] for i in range(4)] == [3, 1, 4, 1]
    assert folder.progress()["counts"]["errored"] == 3
    summary = JobSummary.model_validate(json.loads(folder.summary_file.read_bytes()))
    assert (summary.images, summary.errored, summary.labelled) == (1, 3, 1)
    assert len(folder.tsv_file.read_text().splitlines()) == 2


async def test_many_small_images_do_not_grow_what_is_in_flight(tmp_path, checkpoint, flaky):
    """In flight are a second's worth of images, not the whole input."""
    spec = a_spec(
        checkpoint,
        input=InputSpec("dataset", "digits", split="train", limit=300),
        params=JobParams(n0=5, n=20, seed=SEED),
    )
    folder = a_folder(tmp_path, spec)
    driver = a_driver(folder, flaky)
    most = 0
    keep = driver._keep

    async def watched(first, stop):
        nonlocal most
        most = max(most, len(driver._tasks) + driver._finished.qsize())
        await keep(first, stop)

    driver._keep = watched
    began = time.monotonic()
    assert await driver.run() == "succeeded"
    speed = 300 / (time.monotonic() - began)
    assert len(without_times(folder)) == 300
    assert most <= 3 * speed + 8


async def test_a_cancel_file_stops_it_and_the_rest_can_be_read(tmp_path, checkpoint):
    folder = a_folder(tmp_path, a_spec(checkpoint, params=JobParams(n0=20, n=100_000, seed=SEED)))
    folder.cancel_file.touch()
    assert await run_folder(folder, LocalPool(1)) == "cancelled"
    assert folder.progress()["state"] == "cancelled"
    assert folder.summary_file.exists()
    folder.cancel_file.unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"input": InputSpec("file", "/nowhere/a.npz")}, InputError, "There is no file"),
        ({"model_version": "f" * 64}, JobFolderError, "has changed since the job began"),
        ({"checkpoint": "/nowhere/digits"}, RuntimeFault, "model"),
    ],
)
async def test_what_makes_a_job_impossible_is_said(tmp_path, checkpoint, changes, error, sentence):
    folder = a_folder(tmp_path, a_spec(checkpoint, **changes))
    with pytest.raises(error, match=sentence):
        await run_folder(folder, LocalPool(1))
    assert folder.progress()["state"] == "failed"
    assert sentence in folder.progress()["error"]["detail"]


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


async def test_images_that_kill_their_decoder_are_errored(tmp_path, checkpoint, monkeypatch):
    """Eight good images, two that end the process that decodes them, one that Pillow has no error for."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[4]))
    monkeypatch.setattr("spacte_workers.decoding.Decoders", partial(Decoders, tasks="tests.faulty_tasks"))
    good = saved(colour(8, 8).convert("L"))
    faults = {"3.png": b"abort", "6.png": b"raise", "9.png": b"exit"}
    with zipfile.ZipFile(tmp_path / "eleven.zip", "w") as archive:
        for number in range(11):
            archive.writestr(f"{number:x}.png", faults.get(f"{number:x}.png", good))
    spec = a_spec(checkpoint, input=InputSpec("file", str(tmp_path / "eleven.zip")))
    folder = a_folder(tmp_path / "job", spec)
    assert await run_folder(folder, LocalPool(1)) == "succeeded"
    errored = {index: record["error"]["detail"] for index, record in without_times(folder).items() if "error" in record}
    assert sorted(errored) == [3, 6, 9]
    assert "cannot be decoded within" in errored[3]
    assert "is damaged" in errored[6]
    counts = folder.progress()["counts"]
    assert (counts["errored"], counts["certified"] + counts["abstained"]) == (3, 8)
