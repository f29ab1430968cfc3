"""Store and cluster come together again, whichever of them was away."""

import asyncio

import pytest

from spacte_service.jobs.runner import Seen, UnreachableError


@pytest.mark.parametrize(("policy", "after"), [("never", "interrupted"), ("interrupted", "running")])
async def test_a_job_whose_cluster_is_gone(make_world, policy, after):
    world = make_world(resume_jobs=policy)
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    world.runner.drivers.clear()
    job = (
        await world.until(job["id"], "interrupted")
        if policy == "never"
        else await world.until_second_driver(job["id"])
    )
    assert job["state"] == after
    if policy == "never":
        assert job["error"]["code"] == "cluster_lost"
        await world.http.post(f"/v1/jobs/{job['id']}/resume")
        await world.until(job["id"], "running")


async def test_a_driver_that_outlives_its_cluster_is_left_alone(world):
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    with world.folder(job["id"]).locked():
        world.runner.drivers.clear()
        await asyncio.sleep(0.2)
        (await world.batch.opened()).reconciler.kick()
        await asyncio.sleep(0.1)
        assert (await world.job(job["id"]))["state"] == "running"
    await world.until_second_driver(job["id"])


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


async def test_a_job_that_could_not_be_submitted_is_submitted_as_soon_as_the_cluster_is_back(
    world, monkeypatch
):
    refusals = [UnreachableError("no agent yet"), UnreachableError("no agent yet")]
    submit = world.runner.submit

    async def at_first_away(submission_id, command):
        if refusals:
            raise refusals.pop()
        await submit(submission_id, command)

    monkeypatch.setattr(world.runner, "submit", at_first_away)
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    assert list(world.runner.commands) == [f"{job['id']}-1"]


async def test_a_restarted_gateway_finds_its_jobs(make_world):
    first = make_world()
    job = (await first.create()).json()
    await first.until(job["id"], "running")
    await first.batch.stop()
    second = make_world()
    second.runner = first.runner
    counts = second.finish(job["id"], range(second.images))
    second.says(job["id"], "succeeded", counts)
    first.runner.drivers[f"{job['id']}-1"] = Seen("succeeded")
    await second.batch.start()
    job = await second.until(job["id"], "succeeded")
    assert job["counts"]["certified"] == second.images


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
    events = await second.events(ids[1])
    assert [data["state"] for _, _, data in events] == ["queued", "running", "cancelling", "cancelled"]
