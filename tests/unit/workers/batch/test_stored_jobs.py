"""Promises of jobs in an object store: what a folder promises, from any machine, and one driver at a time writes."""

import asyncio
import multiprocessing
import os
import random
import signal
from multiprocessing.context import ForkServerProcess

import fsspec
import numpy as np
import pytest

from spacte_workers.batch import driver, parts, stored_folder
from spacte_workers.batch.chains import check_log
from spacte_workers.batch.driven_folder import DrivenFolder, opened_folder
from spacte_workers.batch.inputs import InputSpec
from spacte_workers.batch.job_folder import JobFolder, JobFolderError
from spacte_workers.batch.main import run_folder
from spacte_workers.batch.object_store import ObjectStore, StorageError
from spacte_workers.batch.parts import Mirror, Parts, StoredLog, TakenOverError
from spacte_workers.batch.results import read_results
from spacte_workers.batch.stored_folder import Attempts, AttemptState, StoredFolder, attempt_name
from spacte_workers.serving.pools import LocalPool

from .conftest import IMAGES, a_spec, without_times


@pytest.fixture
def store():
    """A store in memory, empty."""
    yield ObjectStore("memory://bucket/spacte")
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def an_npz(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 8, 8), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(IMAGES) % 10)
    return path


def a_spec_below(root, version):
    """Of a job whose checkpoint and images lie below a folder."""
    images = InputSpec("file", str(root / "files" / "images.npz"))
    return a_spec((root / "checkpoints" / "digits", version), input=images)


def a_stored_job(store, root, checkpoint):
    """A job as a gateway makes it."""
    made, version = checkpoint
    spec = a_spec_below(root, version)
    for file in ("config.json", "model.safetensors"):
        store.upload(made / file, f"checkpoints/digits/{file}")
    store.upload(an_npz(root / "files" / "images.npz"), "files/images.npz")
    folder = StoredFolder(root / "jobs" / "job_1", store, Attempts(store))
    folder.create(spec)
    return folder


@pytest.fixture(scope="module")
def in_a_folder(tmp_path_factory, checkpoint):
    """What the same job gives on a disk."""
    made, version = checkpoint
    root = tmp_path_factory.mktemp("data")
    (root / "checkpoints").mkdir()
    (root / "checkpoints" / "digits").symlink_to(made)
    spec = a_spec_below(root, version)
    an_npz(root / "files" / "images.npz")
    folder = JobFolder(root / "jobs" / "job_1")
    folder.create(spec)
    assert asyncio.run(run_folder(folder, LocalPool(1))) == "succeeded"
    return without_times(folder)


def drive(store, attempt=1, **options):
    with opened_folder(f"{store.url}/jobs/job_1", attempt) as folder:
        return asyncio.run(run_folder(folder, LocalPool(1), attempt=attempt, **options))


@pytest.mark.slow
def test_the_results_are_those_of_a_folder(store, tmp_path, checkpoint, in_a_folder, monkeypatch):
    """Though the store is away for a while; and what else a folder has is there, too."""
    monkeypatch.setattr(driver, "WAIT_FOR_ROOM_S", 0.01)
    monkeypatch.setattr(parts, "PART_EVERY_S", 0.01)
    create, failures = ObjectStore.create, iter(range(5))

    def failing(self, name, data):
        if name.endswith("2") and next(failures, None) is not None:
            raise StorageError("away")
        return create(self, name, data)

    monkeypatch.setattr(ObjectStore, "create", failing)
    folder = a_stored_job(store, tmp_path, checkpoint)
    assert drive(store) == "succeeded"
    assert next(failures, None) is None
    folder.refresh()
    assert without_times(folder) == in_a_folder
    progress = folder.progress()
    assert (progress["state"], progress["counts"]["remaining"]) == ("succeeded", 0)
    check_log(folder.results_file, IMAGES, progress["results_sha256"])
    assert not folder.at_work()
    assert {"jobs/job_1/summary.json", "jobs/job_1/results.tsv"} <= set(store.names("jobs/job_1"))


def killed_driver(url, environment, attempt, method, number, when):
    """A driver that is killed at the `number`th call of a method of the store, `before` or `after` it; or never."""
    os.environ.update(environment)
    parts.PART_EVERY_S = 0.0
    calls, plain = iter(range(1, 1_000_000)), getattr(ObjectStore, method)

    def call(*arguments):
        last = next(calls) == number
        if last and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        found = plain(*arguments)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(ObjectStore, method, call)
    raise SystemExit(0 if drive(ObjectStore(url), attempt) == "succeeded" else 1)


KILLS = [
    ("create", 1, "before"),
    ("create", 1, "after"),
    ("create", 2, "before"),  # the first results
    ("create", 2, "after"),
    ("put", 1, "after"),
    ("download", 2, "after"),
    ("upload", 1, "before"),
    ("upload", 1, "after"),
    ("put", 1_000, "before"),  # never
]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of botocore's and moto's own code
def test_drivers_that_are_killed_at_every_step_lose_nothing(s3, tmp_path, checkpoint, in_a_folder):
    """On an S3: each goes on where the one before was killed, from what is in the bucket alone."""
    store = ObjectStore("s3://bucket/spacte")
    store.check()
    folder = a_stored_job(store, tmp_path, checkpoint)
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["spacte_workers.batch.main", "spacte_workers.serving.runtime", "torch", "s3fs"])
    codes, before = [], set()
    for attempt, kill in enumerate(KILLS, 1):
        child: ForkServerProcess = processes.Process(
            target=killed_driver, args=(store.url, environment, attempt, *kill)
        )
        child.start()
        child.join(180)
        codes.append(child.exitcode)
        folder.refresh()
        done = {record["index"] for record in read_results(folder.results_file)}
        assert before <= done
        before = done
    assert codes == [-signal.SIGKILL] * (len(KILLS) - 1) + [0]
    assert without_times(folder) == in_a_folder
    another = StoredFolder(tmp_path / "elsewhere" / "jobs" / "job_1", store, Attempts(store))
    another.refresh()
    check_log(another.results_file, IMAGES, another.progress()["results_sha256"])
    assert another.results_file.read_bytes() == folder.results_file.read_bytes()


def a_log(store, path, attempt):
    return StoredLog(Parts(store, "jobs/job_1"), path, attempt)


def a_record(index):
    return {"index": index, "outcome": "certified"}


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(parts, "PART_EVERY_S", 0.0)


def test_a_driver_that_was_given_up_writes_nothing_any_more(store, tmp_path, at_once):
    """What it had written counts; the next one is not disturbed."""
    old = a_log(store, tmp_path / "old", 1)
    old.append([a_record(0)])
    new = a_log(store, tmp_path / "new", 2)
    assert new.finished == {0}
    with pytest.raises(TakenOverError, match="Another driver has taken the job over"):
        old.append([a_record(1)])
    new.append([a_record(1), a_record(2)])
    with pytest.raises(TakenOverError, match="A later driver has begun"):
        a_log(store, tmp_path / "old", 1)
    new.append([a_record(3)])
    Mirror(Parts(store, "jobs/job_1"), tmp_path / "mirror").refresh()
    assert [record["index"] for record in read_results(tmp_path / "mirror")] == [0, 1, 2, 3]
    assert (tmp_path / "mirror").read_bytes() == (tmp_path / "new").read_bytes()


def test_however_drivers_take_turns_no_image_is_there_twice_and_none_is_lost(store, tmp_path, at_once):
    """Drivers that believe to be the only one write in any order; what one was told is written stays."""
    turns = random.Random(0)
    for round_ in range(40):
        job = f"jobs/job_{round_}"
        logs, told = [], []
        mirror = Mirror(Parts(store, job), tmp_path / f"mirror-{round_}")
        for step in range(30):
            try:
                if not logs or turns.random() < 0.2:
                    path = tmp_path / f"{round_}-{step}"
                    logs.append(StoredLog(Parts(store, job), path, turns.randint(1, 3)))
                else:
                    log = turns.choice(logs)
                    index = next(i for i in range(100) if i not in log.finished)
                    log.append([a_record(index)])
                    told.append(index)
            except TakenOverError:
                continue
            if turns.random() < 0.3:
                mirror.refresh()
        mirror.refresh()
        assert [record["index"] for record in read_results(tmp_path / f"mirror-{round_}")] == told
        check_log(tmp_path / f"mirror-{round_}", len(told))


def test_an_answer_that_is_lost_and_asked_for_again_is_no_other_driver(store, monkeypatch):
    system = type(fsspec.filesystem("memory"))
    plain = system.pipe_file

    def sent_twice(self, path, data, mode="overwrite"):
        plain(self, path, data, mode=mode)
        if mode == "create":
            plain(self, path, data, mode=mode)

    monkeypatch.setattr(system, "pipe_file", sent_twice)
    assert store.create("jobs/a", b"mine")
    monkeypatch.undo()
    assert not store.create("jobs/a", b"another's")
    assert store.get("jobs/a") == b"mine"


def test_a_store_that_replaces_what_is_there_is_refused(store, monkeypatch):
    store.check()
    assert store.names("") == {}
    system = type(fsspec.filesystem("memory"))
    plain = system.pipe_file
    monkeypatch.setattr(system, "pipe_file", lambda self, path, data, mode="": plain(self, path, data))
    with pytest.raises(StorageError, match="If-None-Match"):
        store.check()


def test_a_driver_is_taken_for_gone_when_it_has_said_nothing_new_for_long(store, tmp_path, monkeypatch):
    monkeypatch.setattr(stored_folder, "BEAT_S", 0.0)
    now = [100.0]
    monkeypatch.setattr(stored_folder.time, "monotonic", lambda: now[0])
    folder = StoredFolder(tmp_path / "jobs" / "job_1", store, Attempts(store))

    def says(attempt, beat, **more):
        store.put(
            attempt_name("jobs/job_1", attempt), AttemptState(attempt, beat, **({"over": False} | more)).to_bytes()
        )

    assert not folder.at_work()
    says(1, "a", progress={"state": "running"})
    assert folder.at_work()
    now[0] += stored_folder.LEASE_S - 1
    assert folder.at_work()
    says(1, "b", progress={"state": "running"})
    assert folder.at_work()
    now[0] += stored_folder.LEASE_S - 1
    assert folder.at_work()
    now[0] += 2
    assert not folder.at_work()
    says(2, "a")
    assert folder.at_work()
    assert folder.progress() == {"state": "running"}
    says(2, "b", over=True, progress={"state": "failed"})
    assert not folder.at_work()
    assert folder.progress() == {"state": "failed"}


def test_a_job_that_is_not_there_says_so(store, tmp_path):
    with pytest.raises(JobFolderError, match="holds no job"):
        drive(store)
    (tmp_path / "driver").mkdir()
    folder = DrivenFolder(tmp_path / "driver", store, "job_1", 1)
    spec = a_spec_below(tmp_path, "0" * 64)
    StoredFolder(tmp_path / "jobs" / "job_1", store, Attempts(store)).create(spec)
    with pytest.raises(JobFolderError, match=r"holds no checkpoints/digits: make a new job"):
        folder.fetch()
