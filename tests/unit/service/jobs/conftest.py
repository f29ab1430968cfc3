"""A gateway on a scripted cluster: what the tests of jobs share."""

import asyncio
import json
import time

import httpx2
import pytest

from spacte_client.types import Model
from spacte_service import Settings, create_app
from spacte_service.jobs.runner import DriverStatus, UnreachableError
from spacte_workers.batch.job_folder import JobFolder, write_json
from spacte_workers.batch.results import ResultsLog

IMAGES = 5
PATIENCE_S = 60
"""What a test waits for comes within milliseconds, unless the machine is very busy."""


class ScriptedRunner:
    """A cluster whose drivers do what a test says. Drivers write what real ones write."""

    def __init__(self):
        self.drivers = {}
        self.commands = {}
        self.stopped = []
        self.away = False

    async def submit(self, submission_id, command):
        self._check()
        self.commands[submission_id] = command
        self.drivers[submission_id] = DriverStatus("running")

    async def status(self, submission_id):
        self._check()
        return self.drivers.get(submission_id)

    async def stop(self, submission_id):
        self._check()
        self.stopped.append(submission_id)
        self.drivers[submission_id] = DriverStatus("stopped")

    async def close(self):
        pass

    def _check(self):
        if self.away:
            raise UnreachableError("gone")


class World:
    """A gateway on a scripted cluster, and jobs of five images."""

    images = IMAGES

    def __init__(self, settings, backend, checkpoint):
        folder, version = checkpoint
        served = Model.model_validate(backend.models()[0].model_dump() | {"version": version, "precision": "fp32"})
        backend.models = lambda: [served]
        self.settings = settings.model_copy(update={"models": folder.parent})
        self.app = create_app(self.settings, backend)
        self.batch = self.app.state.gateway.jobs
        self.runner = ScriptedRunner()
        self.batch._runner = lambda folder: self.runner
        transport = httpx2.ASGITransport(app=self.app)
        self.http = httpx2.AsyncClient(transport=transport, base_url="http://testserver")

    async def close(self):
        await self.http.aclose()
        await self.batch.stop()

    async def create(self, headers=None, **fields):
        body = {"input": {"type": "dataset", "name": "digits", "limit": IMAGES}} | fields
        return await self.http.post("/v1/jobs", json=body, headers=headers or {})

    async def job(self, job_id):
        return (await self.http.get(f"/v1/jobs/{job_id}")).json()

    async def until(self, job_id, state):
        return await self._until(job_id, lambda job: job["state"] == state)

    async def certified(self, job_id, count):
        await self._until(job_id, lambda job: job["counts"]["certified"] == count)

    async def interrupted_or_later(self, job_id):
        """Until its driver's death is noticed; by then the next one may have been started."""
        await self._until(job_id, lambda job: job["state"] == "interrupted" or job["ray_submission_id"].endswith("-2"))

    async def until_second_driver(self, job_id):
        def seen(job):
            return job["ray_submission_id"].endswith("-2") and job["state"] == "running"

        return await self._until(job_id, seen)

    async def _until(self, job_id, true):
        end = time.monotonic() + PATIENCE_S
        while not true(job := await self.job(job_id)):
            assert time.monotonic() < end, job
            (await self.batch.opened()).reconciler.wake()
            await asyncio.sleep(0.01)
        return job

    async def events(self, job_id, headers=None):
        """Number, name and data of each event."""
        text = (await self.http.get(f"/v1/jobs/{job_id}/events", headers=headers or {})).text
        events = []
        for block in text.replace("\r\n", "\n").split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if fields:
                events.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
        return events

    def folder(self, job_id):
        return JobFolder(self.settings.data_dir.resolve() / "jobs" / job_id)

    def finish(self, job_id, indices, outcome="certified"):
        log = ResultsLog(self.folder(job_id).results_file)
        log.append([a_record(index, outcome) for index in indices])
        log.close()
        return log.counts

    def says(self, job_id, state, counts, attempt=1, error=None):
        full = {"total": IMAGES, **counts, "remaining": IMAGES - sum(counts.values())}
        pace = {"images_per_minute": 60.0, "eta_s": 1.0}
        word = {"state": state, "attempt": attempt, "counts": full, "error": error, **pace}
        write_json(self.folder(job_id).progress_file, word)


def a_record(index, outcome="certified"):
    return {
        "index": index,
        "outcome": outcome,
        "abstained": outcome == "abstained",
        "label": 3,
        "true_label": 3,
        "correct": True,
        "radius": 0.3,
        "sigma": 0.25,
        "alpha": 0.001,
        "elapsed_ms": 1500.0,
    }


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, make_checkpoint):
    folder = tmp_path_factory.mktemp("models") / "digits"
    return folder, make_checkpoint(folder)


@pytest.fixture
async def world(backend, tmp_path, checkpoint):
    world = World(Settings(data_dir=tmp_path / "data", driver_restarts=0), backend, checkpoint)
    yield world
    await world.close()


@pytest.fixture
async def make_world(backend, tmp_path, checkpoint):
    worlds = []

    def make(**settings):
        worlds.append(
            World(Settings(data_dir=tmp_path / "data", **({"driver_restarts": 0} | settings)), backend, checkpoint)
        )
        return worlds[-1]

    yield make
    for world in worlds:
        await world.close()
