"""A job from its creation to its deletion, and how it is listed and polled."""

import asyncio
import io
import json
import os
import time

import pytest
from PIL import Image as Pillow

from spacte_client.types import JobParams
from spacte_service.jobs.checkpoints import keep_checkpoint
from spacte_service.jobs.runner import DriverStatus


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
    assert spec.params == JobParams(n=500, seed=spec.params.seed)
    assert len(spec.params.seed) == 32
    assert spec.checkpoint != str(world.settings.models / "digits")
    command = world.runner.commands[f"{job['id']}-1"]
    assert command[1:5] == ["-m", "spacte_workers.batch.main", str(world.folder(job["id"]).path), "--attempt"]
    assert command[command.index("--min-agreement") + 1] == str(world.settings.min_agreement)
    counts = world.finish(job["id"], [1, 0, 2])
    world.says(job["id"], "running", counts)
    await world.certified(job["id"], 3)
    counts = world.finish(job["id"], [4], "abstained") | {"certified": 4, "abstained": 1}
    world.finish(job["id"], [3])
    world.says(job["id"], "succeeded", counts)
    world.runner.drivers[f"{job['id']}-1"] = DriverStatus("succeeded")
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
        world.runner.drivers[submission_id] = DriverStatus("running")

    monkeypatch.setattr(world.runner, "submit", submit)
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    assert seen == ["queued", job["id"]]


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
    world.runner.drivers[f"{job['id']}-1"] = DriverStatus("failed", "x")
    await world.until(job["id"], "failed")
    answer = await world.http.get(f"/v1/jobs/{job['id']}", headers={"If-None-Match": answer.headers["etag"]})
    assert answer.status_code == 200
    assert "retry-after" not in answer.headers


async def test_so_many_jobs_at_once(make_world):
    world = make_world(jobs_at_once=2)
    ids = [(await world.create()).json()["id"] for _ in range(3)]
    await world.until(ids[0], "running")
    await world.until(ids[1], "running")
    await asyncio.sleep(0.1)
    assert (await world.job(ids[2]))["state"] == "queued"
    world.runner.drivers[f"{ids[0]}-1"] = DriverStatus("failed", "x")
    await world.until(ids[2], "running")


async def test_deletion_is_of_ended_jobs_only(world):
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    refused = await world.http.delete(f"/v1/jobs/{job['id']}")
    assert (refused.status_code, refused.json()["code"]) == (409, "job_state")
    world.runner.drivers[f"{job['id']}-1"] = DriverStatus("failed", "x")
    await world.until(job["id"], "failed")
    assert (await world.http.delete(f"/v1/jobs/{job['id']}")).status_code == 204
    assert not world.folder(job["id"]).path.exists()
    assert (await world.http.delete(f"/v1/jobs/{job['id']}")).status_code == 404


async def test_old_jobs_are_deleted_after_their_time(world, monkeypatch):
    from datetime import UTC, datetime, timedelta

    job = (await world.create()).json()
    await world.until(job["id"], "running")
    world.runner.drivers[f"{job['id']}-1"] = DriverStatus("failed", "x")
    await world.until(job["id"], "failed")
    opened = await world.batch.opened()
    later = datetime.now(UTC) + timedelta(days=31)
    monkeypatch.setattr("spacte_service.jobs.reconciler.datetime", type("D", (), {"now": lambda zone: later}))
    await opened.reconciler._clean_up()
    assert (await world.http.get(f"/v1/jobs/{job['id']}")).status_code == 404
    assert not world.folder(job["id"]).path.exists()


async def test_the_model_of_a_job_is_kept_as_it_was(world, checkpoint):
    from spacte_core.checkpoint import read_config

    job = (await world.create()).json()
    await world.until(job["id"], "running")
    kept = world.folder(job["id"]).spec().checkpoint
    assert read_config(kept)[1] == checkpoint[1]


async def test_a_model_that_changed_on_disk_makes_no_job(world, tmp_path):
    (await world.batch.opened()).service._models = tmp_path / "other"
    answer = await world.create()
    assert (answer.status_code, answer.json()["code"]) == (503, "model_loading")
    assert (await world.http.get("/v1/jobs")).json()["data"] == []


async def test_the_copy_of_a_model_goes_with_the_last_job_that_had_it(world):
    first, second = [(await world.create()).json()["id"] for _ in range(2)]
    for job_id in (first, second):
        await world.until(job_id, "running")
        world.runner.drivers[f"{job_id}-1"] = DriverStatus("failed", "x")
        await world.until(job_id, "failed")
    copy = world.folder(first).spec().checkpoint
    long_ago = time.time() - 7200
    cleaning = (await world.batch.opened()).reconciler._clean_up
    await world.http.delete(f"/v1/jobs/{first}")
    os.utime(copy, (long_ago, long_ago))
    await cleaning()
    assert copies(world) == [copy]
    await world.http.delete(f"/v1/jobs/{second}")
    os.utime(copy)
    await cleaning()
    assert copies(world) == [copy]  # a job that is being made may be about to take it
    os.utime(copy, (long_ago, long_ago))
    await cleaning()
    assert copies(world) == []
    assert (await world.create()).status_code == 201


def copies(world):
    return [str(place) for place in (world.settings.data_dir.resolve() / "checkpoints").glob("*/*")]


def test_one_checkpoint_under_two_names(tmp_path, checkpoint):
    folder, version = checkpoint
    for name in ("digits", "other"):
        place = tmp_path / "kept" / version / name
        keep_checkpoint(folder, name, version, place)
        assert sorted(file.name for file in place.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("state", "asked", "status", "code"),
    [
        ("loading", {"model": "digits"}, 503, "model_loading"),
        ("loading", {}, 503, "model_loading"),
        ("unloaded", {"model": "digits"}, 404, "model_not_found"),
        ("unloaded", {}, 404, "model_not_found"),
        ("failed", {"model": "digits"}, 409, "model_failed"),
    ],
)
async def test_a_job_is_of_a_model_that_is_served(world, backend, state, asked, status, code):
    served = backend.models()[0].model_copy(update={"state": state})
    backend.models = lambda: [served]
    answer = await world.create(**asked)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert ("retry-after" in answer.headers) == (status == 503)
    assert (await world.http.get("/v1/jobs")).json()["data"] == []


async def test_the_images_of_a_job_are_shown_as_the_model_sees_them(world):
    job = (await world.create()).json()
    answer = await world.http.get(f"/v1/jobs/{job['id']}/images/0")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    with Pillow.open(io.BytesIO(answer.content)) as picture:
        assert (picture.size, picture.mode) == ((8, 8), "L")
    assert (await world.http.get(f"/v1/jobs/{job['id']}/images/99999")).status_code == 404
