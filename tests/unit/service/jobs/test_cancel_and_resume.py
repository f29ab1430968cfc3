"""Jobs are stopped between images and carried on with, by someone or by themselves."""

from datetime import datetime, timedelta

import pytest

from spacte_service.jobs.runner import DriverStatus

from .conftest import IMAGES

pytestmark = pytest.mark.slow


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
    world.runner.drivers[f"{job['id']}-1"] = DriverStatus("succeeded")
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


async def test_resume_starts_another_driver_on_the_same_folder(world):
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    refused = await world.http.post(f"/v1/jobs/{job['id']}/resume")
    assert (refused.status_code, refused.json()["code"]) == (409, "job_state")
    spec = world.folder(job["id"]).spec()
    world.runner.drivers[f"{job['id']}-1"] = DriverStatus("failed", "killed by SIGKILL")
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
    world.runner.drivers[f"{job['id']}-1"] = DriverStatus("succeeded")
    await world.until(job["id"], "cancelled")
    await world.http.post(f"/v1/jobs/{job['id']}/resume")
    await world.until(job["id"], "running")
    assert not world.folder(job["id"]).cancel_file.exists()
    # What the first driver said last is no news of the second.
    world.runner.drivers[f"{job['id']}-2"] = DriverStatus("failed", "killed")
    assert (await world.until(job["id"], "failed"))["error"]["code"] == "driver_died"


@pytest.mark.parametrize(("policy", "after"), [("never", "failed"), ("interrupted", "failed"), ("always", "running")])
async def test_a_dead_driver_is_replaced_where_the_policy_says_so(make_world, policy, after):
    world = make_world(resume_jobs=policy)
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    world.runner.drivers[f"{job['id']}-1"] = DriverStatus("failed", "killed")
    if after == "running":
        await world.until_second_driver(job["id"])
    else:
        job = await world.until(job["id"], after)
        assert job["ray_submission_id"].endswith("-1")


async def test_a_driver_that_died_is_started_again_so_often_and_no_more(make_world):
    world = make_world(driver_restarts=1)
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    world.runner.drivers[f"{job['id']}-1"] = DriverStatus("failed", "killed")
    await world.until_second_driver(job["id"])
    world.runner.drivers[f"{job['id']}-2"] = DriverStatus("failed", "killed")
    assert (await world.until(job["id"], "failed"))["error"]["code"] == "driver_died"


class Tomorrow(datetime):
    """A clock that is a day ahead."""

    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + timedelta(days=1)


async def test_a_clock_that_is_set_back_keeps_no_job_waiting(make_world, monkeypatch):
    world = make_world(driver_restarts=1)
    with monkeypatch.context() as ahead:
        ahead.setattr("spacte_service.store.jobs.datetime", Tomorrow)
        job = (await world.create()).json()
        await world.until(job["id"], "running")
        world.runner.drivers[f"{job['id']}-1"] = DriverStatus("failed", "killed")
        await world.interrupted_or_later(job["id"])
    await world.until_second_driver(job["id"])


async def test_changed_results_are_told_and_drawn_again(world):
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    counts = world.finish(job["id"], range(IMAGES))
    world.says(job["id"], "succeeded", counts)
    world.runner.drivers[f"{job['id']}-1"] = DriverStatus("succeeded")
    await world.until(job["id"], "succeeded")
    results, path = f"/v1/jobs/{job['id']}/results", world.folder(job["id"]).results_file
    assert (await world.http.get(results)).status_code == 200
    path.write_bytes(path.read_bytes()[:-7])
    for what in ("results", "summary", "events", "attestation"):
        told = (await world.http.get(f"/v1/jobs/{job['id']}/{what}")).json()
        assert (told["status"], told["code"]) == (409, "job_state")
        assert "Resume the job" in told["detail"]
    answer = (await world.http.post(f"/v1/jobs/{job['id']}/resume")).json()
    assert (answer["state"], answer["counts"]["certified"]) == ("queued", IMAGES - 1)
