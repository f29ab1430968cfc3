"""Promises of the job routes: nothing half-made, the states of the API, results from any cursor."""

import asyncio
import io
import json
import zipfile

import httpx2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spacte_client.types import CertifyParams, Model
from spacte_service import Settings, create_app
from spacte_service.jobs.runner import Seen, UnreachableError
from spacte_workers.batch.folder import JobFolder, write_json
from spacte_workers.batch.results import ResultsLog

IMAGES = 5


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
        self.drivers[submission_id] = Seen("running")

    async def look(self, submission_id):
        self._check()
        return self.drivers.get(submission_id)

    async def stop(self, submission_id):
        self._check()
        self.stopped.append(submission_id)
        self.drivers[submission_id] = Seen("stopped")

    async def close(self):
        pass

    def _check(self):
        if self.away:
            raise UnreachableError("gone")


class World:
    """A gateway on a scripted cluster."""

    def __init__(self, settings, backend, checkpoint):
        folder, version = checkpoint
        served = Model.model_validate(
            backend.models()[0].model_dump() | {"version": version, "precision": "fp32"}
        )
        backend.models = lambda: [served]
        self.settings = settings.model_copy(update={"models": folder.parent})
        self.app = create_app(self.settings, backend)
        self.batch = self.app.state.gateway.batch
        self.runner = ScriptedRunner()
        self.batch._runner = lambda workplace: self.runner
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
        for _ in range(400):
            job = await self.job(job_id)
            if job["state"] == state:
                return job
            (await self.batch.opened()).reconciler.kick()
            await asyncio.sleep(0.01)
        raise AssertionError(f"{job['state']} is not {state}")

    async def certified(self, job_id, count):
        for _ in range(400):
            if (await self.job(job_id))["counts"]["certified"] == count:
                return
            (await self.batch.opened()).reconciler.kick()
            await asyncio.sleep(0.01)
        raise AssertionError

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
    world = World(Settings(data_dir=tmp_path / "data"), backend, checkpoint)
    yield world
    await world.close()


@pytest.fixture
async def make_world(backend, tmp_path, checkpoint):
    worlds = []

    def make(**settings):
        worlds.append(World(Settings(data_dir=tmp_path / "data", **settings), backend, checkpoint))
        return worlds[-1]

    yield make
    for world in worlds:
        await world.close()


async def test_a_job_from_its_creation_to_its_end(world):
    answer = await world.create(params={"n": 500}, metadata={"note": "ü"})
    assert answer.status_code == 201
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["state"], job["model"], job["metadata"]) == ("queued", "digits", {"note": "ü"})
    assert job["counts"] == {"total": 5, "certified": 0, "abstained": 0, "errored": 0, "remaining": 5}
    assert job["params"]["seed"] is None
    await world.until(job["id"], "running")
    spec = world.folder(job["id"]).spec()
    assert spec.params == CertifyParams(n=500, seed=spec.params.seed)
    assert len(spec.params.seed) == 32
    assert spec.checkpoint != str(world.settings.models / "digits")
    command = world.runner.commands[f"{job['id']}-1"]
    assert command[1:5] == ["-m", "spacte_workers.batch.main", str(world.folder(job["id"]).path), "--attempt"]
    counts = world.finish(job["id"], [1, 0, 2])
    world.says(job["id"], "running", counts)
    await world.certified(job["id"], 3)
    counts = world.finish(job["id"], [4], "abstained") | {"certified": 4, "abstained": 1}
    world.finish(job["id"], [3])
    world.says(job["id"], "succeeded", counts)
    world.runner.drivers[f"{job['id']}-1"] = Seen("succeeded")
    job = await world.until(job["id"], "succeeded")
    assert job["counts"] == {"total": 5, "certified": 4, "abstained": 1, "errored": 0, "remaining": 0}
    assert job["started_at"] <= job["ended_at"]
    lines = (await world.http.get(job["results_url"])).text.splitlines()
    assert [json.loads(line)["index"] for line in lines] == [1, 0, 2, 4, 3]
    summary = (await world.http.get(f"/v1/jobs/{job['id']}/summary")).json()
    assert (summary["images"], summary["abstained"], summary["max_false"]) == (5, 1, 1)
    metrics = (await world.http.get("/metrics")).text
    assert 'spacte_job_images_total{outcome="certified"} 4.0' in metrics
    assert 'spacte_jobs{state="succeeded"} 1.0' in metrics


async def test_a_job_is_written_down_before_it_is_submitted(world, monkeypatch):
    seen = []

    async def submit(submission_id, command):
        job_id = submission_id.rpartition("-")[0]
        seen.append((await world.job(job_id))["state"])
        seen.append(world.folder(job_id).spec().id)
        world.runner.drivers[submission_id] = Seen("running")

    monkeypatch.setattr(world.runner, "submit", submit)
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    assert seen == ["queued", job["id"]]


@pytest.mark.parametrize(
    ("fields", "status", "code", "words"),
    [
        (
            {"input": {"type": "dataset", "name": "nowhere"}},
            422,
            "validation_failed",
            "no data set 'nowhere'",
        ),
        ({"input": {"type": "dataset", "name": "digits", "split": "dev"}}, 422, "validation_failed", "split"),
        ({"input": {"type": "dataset", "name": "parquet:/etc"}}, 422, "validation_failed", "no data set"),
        ({"input": {"type": "file", "file_id": "file_x"}}, 404, "file_not_found", "no file 'file_x'"),
        ({"input": {"type": "uri", "uri": "file:///etc/passwd"}}, 422, "validation_failed", "reads no files"),
        ({"input": {"type": "ftp"}}, 422, "validation_failed", ""),
        ({"model": "nothing"}, 404, "model_not_found", "No model 'nothing'"),
        ({"params": {"deadline_ms": 5}}, 422, "validation_failed", "do not depend on time"),
        ({"params": {"k_consensus": 9}}, 422, "validation_failed", "5 heads"),
        ({"params": {"sigma": 0.5}}, 422, "validation_failed", "sigma 0.25"),
        ({"params": {"n": 10**7}}, 422, "validation_failed", "at most"),
        ({"params": {"seed": "0" * 32}}, 422, "validation_failed", "seed"),
        ({"params": {"model": "digits"}}, 422, "validation_failed", ""),
        ({"nonsense": 1}, 422, "validation_failed", "not a field"),
    ],
)
async def test_what_is_refused_leaves_nothing(world, fields, status, code, words):
    answer = await world.create(**fields)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert words in answer.json()["detail"]
    assert (await world.http.get("/v1/jobs")).json()["data"] == []
    assert not (world.settings.data_dir / "jobs").exists()
    assert world.runner.commands == {}


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, b"", 400),
        ({"content-type": "application/json"}, b"{", 400),
        ({"content-type": "text/plain"}, b"{}", 415),
        ({"idempotency-key": "\t"}, b"{}", 422),
    ],
)
async def test_bodies_and_keys_that_cannot_be_read(world, headers, body, status):
    assert (await world.http.post("/v1/jobs", content=body, headers=headers)).status_code == status


def packed(name, member):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, member)
    return file.getvalue()


def saved(save, **arrays):
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def parquet(**columns):
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (saved(np.savez, images=np.zeros((0, 1, 8, 8), np.uint8)), "holds no image"),
        (saved(np.savez, images=np.zeros((2, 3, 8, 8), np.uint8)), "but the model takes"),
        (saved(np.savez_compressed, images=np.zeros((300_000, 1, 8, 8), np.uint8)), "100 times its size"),
        (packed("../a.png", b"x"), "outside itself"),
        (packed("a.png", bytes(40 << 20)), "unpacks from"),
        (packed("readme.txt", b"x"), "holds no PNG"),
        (parquet(pixels=[1], label=[2]), "has columns pixels, label"),
        (b"\x93NUMPY" + bytes(50), "none of npz"),
    ],
    ids=["empty", "shape", "npz-bomb", "traversal", "zip-bomb", "no-images", "columns", "image"],
)
async def test_files_that_cannot_be_certified_make_no_job(world, data, words):
    file = (await world.http.post("/v1/files", files={"file": ("x", data)})).json()
    answer = await world.create(input={"type": "file", "file_id": file["id"]})
    assert answer.status_code == 422, answer.text
    assert words in answer.json()["detail"]
    assert answer.json()["errors"][0]["pointer"] == "/input"
    assert (await world.http.get("/v1/jobs")).json()["data"] == []
    assert (await world.http.delete(f"/v1/files/{file['id']}")).status_code == 204


async def test_a_file_stays_while_its_job_needs_it(world):
    data = saved(np.savez, images=np.zeros((IMAGES, 1, 8, 8), np.uint8))
    file = (await world.http.post("/v1/files", files={"file": ("x", data)})).json()
    job = (await world.create(input={"type": "file", "file_id": file["id"]})).json()
    await world.until(job["id"], "running")
    used = await world.http.delete(f"/v1/files/{file['id']}")
    assert (used.status_code, used.json()["code"]) == (409, "file_in_use")
    assert job["id"] in used.json()["detail"]
    world.runner.drivers[f"{job['id']}-1"] = Seen("failed", "killed")
    await world.until(job["id"], "failed")
    assert (await world.http.delete(f"/v1/files/{file['id']}")).status_code == 204
    resumed = await world.http.post(f"/v1/jobs/{job['id']}/resume")
    assert (resumed.status_code, resumed.json()["code"]) == (409, "job_state")
    assert "There is no file" in resumed.json()["detail"]


async def test_a_uri_below_a_root(make_world, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside.npz").write_bytes(saved(np.savez, images=np.zeros((2, 1, 8, 8), np.uint8)))
    (root / "link.npz").symlink_to(tmp_path / "outside.npz")
    (root / "set.npz").write_bytes((tmp_path / "outside.npz").read_bytes())
    world = make_world(input_roots=str(root))
    good = await world.create(input={"type": "uri", "uri": f"file://{root}/set.npz"})
    assert (good.status_code, good.json()["counts"]["total"]) == (201, 2)
    for uri in (f"file://{root}/link.npz", f"file://{root}/../outside.npz", f"file://{tmp_path}/outside.npz"):
        bad = await world.create(input={"type": "uri", "uri": uri})
        assert bad.status_code == 422
        assert "There is no file" in bad.json()["detail"]


async def test_an_idempotent_request_makes_one_job(world):
    first = await world.create(headers={"Idempotency-Key": "k"})
    again = await world.create(headers={"Idempotency-Key": "k"})
    assert again.status_code == 201
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    other = await world.create(headers={"Idempotency-Key": "k"}, params={"n": 7})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    assert len((await world.http.get("/v1/jobs")).json()["data"]) == 1


async def test_the_same_key_twice_at_once_makes_one_job(world):
    answers = await asyncio.gather(*(world.create(headers={"Idempotency-Key": "k"}) for _ in range(6)))
    made = {answer.json()["id"] for answer in answers if answer.status_code == 201}
    assert len(made) == 1
    others = {answer.json()["code"] for answer in answers if answer.status_code != 201}
    assert others <= {"idempotency_in_progress"}
    assert len((await world.http.get("/v1/jobs")).json()["data"]) == 1


async def test_a_refused_request_may_be_sent_again_with_its_key(world):
    bad = await world.create(headers={"Idempotency-Key": "k"}, model="nothing")
    assert bad.status_code == 404
    assert (await world.create(headers={"Idempotency-Key": "k"})).status_code == 201


async def test_lists_are_pages(world):
    ids = [(await world.create()).json()["id"] for _ in range(3)][::-1]
    page = (await world.http.get("/v1/jobs?limit=2")).json()
    assert ([job["id"] for job in page["data"]], page["has_more"]) == (ids[:2], True)
    rest = (await world.http.get(f"/v1/jobs?limit=2&after={page['last_id']}")).json()
    assert ([job["id"] for job in rest["data"]], rest["has_more"]) == (ids[2:], False)
    assert (await world.http.get("/v1/jobs?state=failed")).json()["data"] == []
    assert (await world.http.get("/v1/jobs?state=nonsense")).status_code == 422
    assert (await world.http.get("/v1/jobs?after=job_x")).status_code == 404


@pytest.mark.parametrize("verb", ["", "/results", "/events", "/summary"])
async def test_a_job_that_is_not_there(world, verb):
    answer = await world.http.get(f"/v1/jobs/job_x{verb}")
    assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")


async def test_polling_is_cheap_and_hinted(world):
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    answer = await world.http.get(f"/v1/jobs/{job['id']}")
    assert answer.headers["retry-after"] == "2"
    again = await world.http.get(f"/v1/jobs/{job['id']}", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.text) == (304, "")
    world.runner.drivers[f"{job['id']}-1"] = Seen("failed", "x")
    await world.until(job["id"], "failed")
    answer = await world.http.get(f"/v1/jobs/{job['id']}", headers={"If-None-Match": answer.headers["etag"]})
    assert answer.status_code == 200
    assert "retry-after" not in answer.headers


async def test_cancel_is_cooperative_and_idempotent_and_keeps_results(world):
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    counts = world.finish(job["id"], [0, 1])
    for _ in range(2):
        answer = await world.http.post(f"/v1/jobs/{job['id']}/cancel")
        assert (answer.status_code, answer.json()["state"]) == (200, "cancelling")
    assert world.folder(job["id"]).cancel_file.exists()
    assert world.runner.stopped == []
    world.says(job["id"], "cancelled", counts)
    world.runner.drivers[f"{job['id']}-1"] = Seen("succeeded")
    job = await world.until(job["id"], "cancelled")
    assert job["counts"]["remaining"] == 3
    refused = await world.http.post(f"/v1/jobs/{job['id']}/cancel")
    assert (refused.status_code, refused.json()["code"]) == (409, "job_state")
    assert len((await world.http.get(job["results_url"])).text.splitlines()) == 2


async def test_a_driver_that_does_not_heed_is_ended(world, monkeypatch):
    monkeypatch.setattr("spacte_service.jobs.reconciler.STOP_AFTER_S", 0.05)
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    await world.http.post(f"/v1/jobs/{job['id']}/cancel")
    await world.until(job["id"], "cancelled")
    assert world.runner.stopped == [f"{job['id']}-1"]


async def test_a_job_cancelled_before_it_ran(make_world):
    world = make_world(jobs_at_once=1)
    first, second = [(await world.create()).json()["id"] for _ in range(2)]
    await world.until(first, "running")
    await world.http.post(f"/v1/jobs/{second}/cancel")
    await world.until(second, "cancelled")
    assert list(world.runner.commands) == [f"{first}-1"]


async def test_so_many_jobs_at_once(make_world):
    world = make_world(jobs_at_once=2)
    ids = [(await world.create()).json()["id"] for _ in range(3)]
    await world.until(ids[0], "running")
    await world.until(ids[1], "running")
    await asyncio.sleep(0.1)
    assert (await world.job(ids[2]))["state"] == "queued"
    world.runner.drivers[f"{ids[0]}-1"] = Seen("failed", "x")
    await world.until(ids[2], "running")


async def test_resume_starts_another_driver_on_the_same_folder(world):
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    refused = await world.http.post(f"/v1/jobs/{job['id']}/resume")
    assert (refused.status_code, refused.json()["code"]) == (409, "job_state")
    spec = world.folder(job["id"]).spec()
    world.runner.drivers[f"{job['id']}-1"] = Seen("failed", "killed by SIGKILL")
    job = await world.until(job["id"], "failed")
    assert job["error"] == {
        "code": "driver_died",
        "detail": "The driver died (killed by SIGKILL); resume the job to carry on.",
    }
    answer = await world.http.post(f"/v1/jobs/{job['id']}/resume")
    assert (answer.json()["state"], answer.json()["error"]) == ("queued", None)
    job = await world.until(job["id"], "running")
    assert job["ray_submission_id"] == f"{job['id']}-2"
    assert "2" in world.runner.commands[f"{job['id']}-2"]
    assert world.folder(job["id"]).spec() == spec


async def test_a_resumed_job_forgets_that_it_was_cancelled(world):
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    await world.http.post(f"/v1/jobs/{job['id']}/cancel")
    world.says(job["id"], "cancelled", {"certified": 0, "abstained": 0, "errored": 0})
    world.runner.drivers[f"{job['id']}-1"] = Seen("succeeded")
    await world.until(job["id"], "cancelled")
    await world.http.post(f"/v1/jobs/{job['id']}/resume")
    await world.until(job["id"], "running")
    assert not world.folder(job["id"]).cancel_file.exists()
    # What the first driver said last is no news of the second.
    world.runner.drivers[f"{job['id']}-2"] = Seen("failed", "killed")
    assert (await world.until(job["id"], "failed"))["error"]["code"] == "driver_died"


@pytest.mark.parametrize(
    ("policy", "after"), [("never", "failed"), ("interrupted", "failed"), ("always", "running")]
)
async def test_a_dead_driver_is_replaced_where_the_policy_says_so(make_world, policy, after):
    world = make_world(resume_jobs=policy)
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    world.runner.drivers[f"{job['id']}-1"] = Seen("failed", "killed")
    await asyncio.sleep(0.05)
    job = await world.until(job["id"], after)
    assert job["ray_submission_id"].endswith("-2" if after == "running" else "-1")


@pytest.mark.parametrize(("policy", "after"), [("never", "interrupted"), ("interrupted", "running")])
async def test_a_job_whose_cluster_is_gone(make_world, policy, after):
    world = make_world(resume_jobs=policy)
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    world.runner.drivers.clear()
    job = (
        await world.until(job["id"], "interrupted")
        if policy == "never"
        else await second_run(world, job["id"])
    )
    assert job["state"] == after
    if policy == "never":
        assert job["error"]["code"] == "cluster_lost"
        await world.http.post(f"/v1/jobs/{job['id']}/resume")
        await world.until(job["id"], "running")


async def second_run(world, job_id):
    for _ in range(400):
        job = await world.job(job_id)
        if job["ray_submission_id"].endswith("-2") and job["state"] == "running":
            return job
        await asyncio.sleep(0.01)
    raise AssertionError(job)


async def test_a_driver_that_outlives_its_cluster_is_left_alone(world):
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    with world.folder(job["id"]).locked():
        world.runner.drivers.clear()
        await asyncio.sleep(0.2)
        (await world.batch.opened()).reconciler.kick()
        await asyncio.sleep(0.1)
        assert (await world.job(job["id"]))["state"] == "running"
    await second_run(world, job["id"])


async def test_a_cluster_that_is_away_for_a_moment_changes_nothing(world):
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    world.runner.away = True
    (await world.batch.opened()).reconciler.kick()
    await asyncio.sleep(0.2)
    assert (await world.job(job["id"]))["state"] == "running"
    world.runner.away = False
    world.runner.drivers[f"{job['id']}-1"] = Seen("failed", "x")
    await world.until(job["id"], "failed")


async def test_a_restarted_gateway_finds_its_jobs(make_world):
    first = make_world()
    job = (await first.create()).json()
    await first.until(job["id"], "running")
    await first.batch.stop()
    second = make_world()
    second.runner = first.runner
    counts = second.finish(job["id"], range(IMAGES))
    second.says(job["id"], "succeeded", counts)
    first.runner.drivers[f"{job['id']}-1"] = Seen("succeeded")
    await second.batch.start()
    job = await second.until(job["id"], "succeeded")
    assert job["counts"]["certified"] == IMAGES


async def test_two_gateways_on_one_store_agree(make_world):
    first, second = make_world(), make_world()
    second.runner = first.runner
    await second.batch.opened()
    ids = [(await world.create()).json()["id"] for world in (first, second)]
    for world in (first, second):
        for job_id in ids:
            await world.until(job_id, "running")
    assert sorted(first.runner.commands) == sorted(f"{job_id}-1" for job_id in ids)
    await first.http.post(f"/v1/jobs/{ids[1]}/cancel")
    first.runner.drivers[f"{ids[1]}-1"] = Seen("stopped")
    await second.until(ids[1], "cancelled")
    events = events_of((await second.http.get(f"/v1/jobs/{ids[1]}/events")).text)
    assert [data["state"] for _, _, data in events] == ["queued", "running", "cancelling", "cancelled"]


async def test_deletion_is_of_ended_jobs_only(world):
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    refused = await world.http.delete(f"/v1/jobs/{job['id']}")
    assert (refused.status_code, refused.json()["code"]) == (409, "job_state")
    world.runner.drivers[f"{job['id']}-1"] = Seen("failed", "x")
    await world.until(job["id"], "failed")
    assert (await world.http.delete(f"/v1/jobs/{job['id']}")).status_code == 204
    assert not world.folder(job["id"]).path.exists()
    assert (await world.http.delete(f"/v1/jobs/{job['id']}")).status_code == 404


async def test_results_from_any_cursor_give_every_record_once(world):
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    world.finish(job["id"], [2, 0, 4, 1])
    results = f"/v1/jobs/{job['id']}/results"
    whole = [json.loads(line) for line in (await world.http.get(results)).text.splitlines()]
    assert [record["index"] for record in whole] == [2, 0, 4, 1]
    for position, record in enumerate(whole):
        rest = (await world.http.get(f"{results}?after={record['index']}")).text.splitlines()
        assert [json.loads(line) for line in rest] == whole[position + 1 :]
    missing = await world.http.get(f"{results}?after=3")
    assert missing.status_code == 422
    assert "Image 3" in missing.json()["detail"]


async def test_half_a_line_is_never_sent(world):
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    world.finish(job["id"], [0])
    with world.folder(job["id"]).results_file.open("ab") as file:
        file.write(b'{"index":1,"outcome":"certified"')
    text = (await world.http.get(f"/v1/jobs/{job['id']}/results")).text
    assert len(text.splitlines()) == 1


async def test_results_are_followed_to_the_end(world):
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    world.finish(job["id"], [0])
    following = asyncio.create_task(world.http.get(f"/v1/jobs/{job['id']}/results?follow=true"))
    await asyncio.sleep(0.1)
    world.finish(job["id"], [1, 2])
    await asyncio.sleep(0.1)
    counts = world.finish(job["id"], [3, 4])
    world.says(job["id"], "succeeded", counts | {"certified": 5})
    world.runner.drivers[f"{job['id']}-1"] = Seen("succeeded")
    await world.until(job["id"], "succeeded")
    lines = (await following).text.splitlines()
    assert [json.loads(line)["index"] for line in lines] == [0, 1, 2, 3, 4]


async def test_tsv_in_the_columns_of_the_field(world):
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    world.finish(job["id"], [2, 0])
    world.finish(job["id"], [1], "errored")
    answer = await world.http.get(f"/v1/jobs/{job['id']}/results?format=tsv")
    assert answer.headers["content-type"].startswith("text/tab-separated-values")
    assert answer.text.splitlines() == [
        "idx\tlabel\tpredict\tradius\tcorrect\ttime",
        "0\t3\t3\t0.300000\t1\t0:00:01.500000",
        "2\t3\t3\t0.300000\t1\t0:00:01.500000",
    ]


def events_of(text):
    events = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            events.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return events


async def test_events_have_numbers_and_go_on_from_any(world):
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    counts = world.finish(job["id"], [0, 1])
    world.says(job["id"], "running", counts)
    await world.certified(job["id"], 2)
    world.runner.drivers[f"{job['id']}-1"] = Seen("failed", "x")
    await world.until(job["id"], "failed")
    url = f"/v1/jobs/{job['id']}/events"
    events = events_of((await world.http.get(url)).text)
    assert [number for number, _, _ in events] == sorted({number for number, _, _ in events})
    assert [data.get("state", "progress") for _, _, data in events] == [
        "queued",
        "running",
        "progress",
        "failed",
    ]
    assert events[2][2]["counts"]["remaining"] == 3
    assert events[3][2]["error"]["code"] == "driver_died"
    late = events_of((await world.http.get(url, headers={"Last-Event-ID": str(events[1][0])})).text)
    assert late == events[2:]
    assert (await world.http.get(url, headers={"Last-Event-ID": "x"})).status_code == 422


async def test_old_jobs_are_deleted_after_their_time(world, monkeypatch):
    from datetime import UTC, datetime, timedelta

    job = (await world.create()).json()
    await world.until(job["id"], "running")
    world.runner.drivers[f"{job['id']}-1"] = Seen("failed", "x")
    await world.until(job["id"], "failed")
    opened = await world.batch.opened()
    later = datetime.now(UTC) + timedelta(days=31)
    monkeypatch.setattr("spacte_service.jobs.reconciler.datetime", type("D", (), {"now": lambda zone: later}))
    await opened.reconciler._clean_up()
    assert (await world.http.get(f"/v1/jobs/{job['id']}")).status_code == 404
    assert not world.folder(job["id"]).path.exists()


async def test_the_model_of_a_job_is_kept_as_it_was(world, checkpoint):
    from spacte_trainer.checkpoint import read_config

    job = (await world.create()).json()
    await world.until(job["id"], "running")
    kept = world.folder(job["id"]).spec().checkpoint
    assert read_config(kept)[1] == checkpoint[1]


async def test_a_model_that_changed_on_disk_makes_no_job(world, tmp_path):
    world.app.state.gateway.batch._settings.models = tmp_path / "other"
    answer = await world.create()
    assert (answer.status_code, answer.json()["code"]) == (503, "model_loading")
    assert (await world.http.get("/v1/jobs")).json()["data"] == []
