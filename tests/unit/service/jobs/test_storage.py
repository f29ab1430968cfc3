"""Promises of jobs in an object store: gateways and drivers share nothing else."""

import asyncio
import io
import json
import os
import time

import fsspec
import numpy as np
import pytest

from spacte_service import Settings
from spacte_service.jobs.data_folder import FRESH_S, DataFolder
from spacte_service.jobs.runner import DriverStatus
from spacte_service.store import StoreError
from spacte_workers.batch import parts, stored_folder
from spacte_workers.batch.driven_folder import DrivenFolder
from spacte_workers.batch.inputs import open_source
from spacte_workers.batch.object_store import ObjectStore, StorageError
from spacte_workers.batch.parts import TakenOverError
from spacte_workers.batch.stored_folder import AttemptState, attempt_name

from .conftest import IMAGES, PATIENCE_S, World, a_record

URL = "memory://bucket/spacte"


@pytest.fixture
def store(monkeypatch):
    """The store, empty; drivers and gateways that do not wait."""
    monkeypatch.setattr(parts, "PART_EVERY_S", 0.0)
    monkeypatch.setattr(stored_folder, "BEAT_S", 0.0)
    yield ObjectStore(URL)
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.fixture
async def gateways(store, backend, tmp_path, checkpoint):
    """Makes gateways on machines of their own, with one database, one cluster and one store."""
    made = []

    def make(**more):
        name = f"gateway-{len(made)}"
        database = f"sqlite:///{tmp_path / 'shared.sqlite'}"
        settings = Settings(data_dir=tmp_path / name, database=database, job_storage=URL, driver_restarts=0, **more)
        made.append(World(settings, backend, checkpoint))
        made[-1].runner = made[0].runner
        return made[-1]

    yield make
    for world in made:
        await world.close()


class Machine:
    """A driver of a job on a machine of its own."""

    def __init__(self, store, root, job_id, attempt):
        root.mkdir()
        self._name = attempt_name(f"jobs/{job_id}", attempt)
        self._store, self._attempt = store, attempt
        self.folder = DrivenFolder(root, store, job_id, attempt)
        self.folder.fetch()
        self.log = self.folder.open_log()

    def finishes(self, *indices):
        self.log.append([a_record(index) for index in indices])
        self.says("running")

    def says(self, state):
        counts = {"total": IMAGES, **self.log.counts, "remaining": IMAGES - sum(self.log.counts.values())}
        progress = {"state": state, "attempt": self._attempt, "counts": counts, "error": None}
        pace = {"images_per_minute": 60.0, "eta_s": 1.0, "results_sha256": self.log.end.sha256}
        said = AttemptState(self._attempt, os.urandom(4).hex(), state != "running", progress | pace)
        self._store.put(self._name, said.to_bytes())


async def an_upload(world):
    packed = io.BytesIO()
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 8, 8), dtype=np.uint8)
    np.savez(packed, images=images, labels=np.arange(IMAGES))
    answer = await world.http.post("/v1/files", files={"file": ("a.npz", packed.getvalue())})
    return answer.json()["id"], images


def indices_in(answer):
    return [json.loads(line)["index"] for line in answer.text.splitlines()]


async def test_a_job_from_gateway_to_driver_to_another_gateway(gateways, store, tmp_path):
    here, there = gateways(), gateways()
    file_id, images = await an_upload(here)
    job = (await here.create(input={"type": "file", "file_id": file_id})).json()
    job_id = job["id"]
    await here.until(job_id, "running")
    command = here.runner.commands[f"{job_id}-1"]
    assert command[3] == f"{URL}/jobs/{job_id}"

    first = Machine(store, tmp_path / "driver-1", job_id, 1)
    spec = first.folder.spec()
    assert (tmp_path / "driver-1").samefile(first.folder.path.parents[1])
    for path in (spec.checkpoint, spec.input.location):
        assert path.startswith(str(tmp_path / "driver-1"))
    source = open_source(spec.input, (1, 8, 8))
    assert np.array_equal(np.squeeze(source.read(3).content), images[3])
    assert (tmp_path / "driver-1" / "checkpoints").is_dir()

    first.finishes(1, 0)
    await there.certified(job_id, 2)
    assert indices_in(await there.http.get(f"/v1/jobs/{job_id}/results")) == [1, 0]
    first.finishes(2)
    await here.certified(job_id, 3)
    assert indices_in(await there.http.get(f"/v1/jobs/{job_id}/results?after=0")) == [2]
    assert (await there.http.get(f"/v1/jobs/{job_id}/images/3")).headers["content-type"] == "image/png"

    assert (await there.http.post(f"/v1/jobs/{job_id}/cancel")).status_code == 200
    assert store.get(f"jobs/{job_id}/cancel") is not None
    first.says("cancelled")
    here.runner.drivers[f"{job_id}-1"] = DriverStatus("succeeded")
    await here.until(job_id, "cancelled")
    assert (await there.http.post(f"/v1/jobs/{job_id}/resume")).status_code == 200
    await here.until_second_driver(job_id)
    assert store.get(f"jobs/{job_id}/cancel") is None

    second = Machine(store, tmp_path / "driver-2", job_id, 2)
    assert second.log.finished == {0, 1, 2}
    with pytest.raises(TakenOverError):
        first.finishes(3)
    second.finishes(4, 3)
    second.says("succeeded")
    here.runner.drivers[f"{job_id}-2"] = DriverStatus("succeeded")
    assert (await there.until(job_id, "succeeded"))["counts"]["certified"] == IMAGES
    third = gateways()
    assert indices_in(await third.http.get(f"/v1/jobs/{job_id}/results")) == [1, 0, 2, 4, 3]
    assert (await third.http.get(f"/v1/jobs/{job_id}/summary")).json()["images"] == IMAGES
    assert (await third.http.get(f"/v1/files/{file_id}")).status_code == 200

    assert (await there.http.delete(f"/v1/jobs/{job_id}")).status_code == 204
    assert store.names(f"jobs/{job_id}") == {}
    assert (await there.http.delete(f"/v1/files/{file_id}")).status_code == 204
    assert store.names("files") == {}


async def test_a_job_carries_certificates_over_from_a_base_job_of_another_gateway(gateways, store, tmp_path):
    here, there = gateways(), gateways()
    base = (await here.create()).json()["id"]
    await here.until(base, "running")
    driver = Machine(store, tmp_path / "driver", base, 1)
    driver.finishes(*range(IMAGES))
    driver.says("succeeded")
    await here.until(base, "succeeded")
    answer = await there.http.post("/v1/jobs", json={"base_job": base})
    assert answer.status_code == 201, answer.text
    after = answer.json()["id"]
    await here.until(after, "running")
    assert (await there.batch.opened()).store.jobs.get(after).checkpoint.startswith("checkpoints/")
    second = Machine(store, tmp_path / "second", after, 1)
    assert second.folder.base_file.read_bytes() == driver.folder.results_file.read_bytes()
    assert (tmp_path / "second").samefile(second.folder.path.parents[1])
    assert second.folder.spec().base.checkpoint.startswith(str(tmp_path / "second"))


async def test_a_part_that_was_changed_is_found_and_drawn_again(gateways, store, tmp_path):
    here = gateways()
    job_id = (await here.create()).json()["id"]
    await here.until(job_id, "running")
    driver = Machine(store, tmp_path / "driver", job_id, 1)
    for index in range(IMAGES):
        driver.finishes(index)
    driver.says("succeeded")
    await here.until(job_id, "succeeded")
    name = f"jobs/{job_id}/parts/00000003"
    store.put(name, store.get(name).replace(b'"label": 3', b'"label": 4').replace(b'"label":3', b'"label":4'))
    there = gateways()
    answer = await there.http.get(f"/v1/jobs/{job_id}/results")
    assert (answer.status_code, answer.json()["code"]) == (409, "job_state")
    assert (await there.http.post(f"/v1/jobs/{job_id}/resume")).status_code == 200
    await here.until_second_driver(job_id)
    second = Machine(store, tmp_path / "second", job_id, 2)
    left = [index for index in range(IMAGES) if index not in second.log.finished]
    assert 1 in left
    second.finishes(*left)
    second.says("succeeded")
    await there.until(job_id, "succeeded")
    for world in (here, there, gateways()):
        found = indices_in(await world.http.get(f"/v1/jobs/{job_id}/results"))
        assert sorted(found) == list(range(IMAGES))


async def test_a_file_below_a_root_travels_with_its_job(gateways, store, tmp_path):
    root = tmp_path / "sets"
    root.mkdir()
    np.savez(root / "a.npz", images=np.zeros((2, 8, 8), np.uint8))
    here = gateways(input_roots=str(root))
    answer = await here.create(input={"type": "uri", "uri": f"file://{root}/a.npz"})
    assert answer.status_code == 201, answer.text
    await here.until(answer.json()["id"], "running")
    spec = Machine(store, tmp_path / "driver", answer.json()["id"], 1).folder.spec()
    assert len(open_source(spec.input, (1, 8, 8)).indices) == 2


async def test_a_storage_that_is_away_is_told_and_jobs_wait(gateways, store, monkeypatch):
    here = gateways()
    job_id = (await here.create()).json()["id"]

    def away(*_):
        raise StorageError("The storage is away: mend access to it.")

    monkeypatch.setattr(ObjectStore, "get", away)
    answer = await here.http.get(f"/v1/jobs/{job_id}/summary")
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    assert "The storage is away" in answer.json()["detail"]
    assert "retry-after" in answer.headers
    reconciler = (await here.batch.opened()).reconciler
    end = time.monotonic() + PATIENCE_S
    while not reconciler.stalled:
        assert time.monotonic() < end
        reconciler.wake()
        await asyncio.sleep(0.01)
    checks = (await here.http.get("/readyz")).json()["checks"]
    assert "The storage is away" in checks["data_folder"]
    assert checks["database"] == "ok"
    monkeypatch.undo()
    assert (await here.until(job_id, "running"))["state"] == "running"


async def test_a_gateway_does_not_start_with_a_storage_that_cannot_be_used(gateways, monkeypatch):
    def away(*_):
        raise StorageError("The storage is away: mend access to it.")

    monkeypatch.setattr(ObjectStore, "check", away)
    with pytest.raises(StoreError, match="The storage is away"):
        await gateways().batch.opened()


def test_what_no_job_has_goes_from_the_storage_once_it_is_old(store, tmp_path, monkeypatch):
    folder = DataFolder(tmp_path, store)
    for name in ("a", "b"):
        path = folder.fetched / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
        folder.keep(path)
    assert folder.delete_unused(folder.fetched, {str(folder.fetched / "a")}) == []
    later = folder.fetched.stat().st_mtime + 2 * FRESH_S
    monkeypatch.setattr("spacte_service.jobs.data_folder.time.time", lambda: later)
    assert folder.delete_unused(folder.fetched, {str(folder.fetched / "a")}) == ["fetched/b"]
    assert list(store.names("fetched")) == ["fetched/a"]


def test_old_copies_go_but_for_what_only_this_machine_has(store, tmp_path):
    folder = DataFolder(tmp_path, store)
    kept, only_here, young = (folder.uploads / name[:2] / name for name in ("aa1", "bb2", "cc3"))
    for path in (kept, only_here, young):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    folder.keep(kept)
    for job_id in ("job_1", "job_2"):
        (folder.jobs / job_id).mkdir(parents=True)
    for path in (kept, only_here, folder.jobs / "job_1", folder.jobs / "job_2"):
        os.utime(path, (0, 0))
    assert sorted(folder.delete_copies(lambda job_id: job_id == "job_1")) == ["files/aa/aa1", "jobs/job_1"]
    assert [path.exists() for path in (kept, only_here, young)] == [False, True, True]
    assert (folder.jobs / "job_2").exists()
    folder.restore(kept)
    assert kept.read_bytes() == b"x"
    os.utime(kept, (0, 0))
    folder.restore(kept)
    assert folder.delete_copies(lambda _: False) == []


@pytest.mark.parametrize("url", ["/data/jobs", "file:///data/jobs", "s3://key:secret@bucket/jobs", "nonsense://a/b"])
def test_a_storage_is_a_url_that_can_be_written(url):
    with pytest.raises(ValueError, match="job_storage"):
        Settings(job_storage=url)
