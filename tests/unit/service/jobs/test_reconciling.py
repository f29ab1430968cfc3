"""Store and cluster come together again, whichever of them was away."""

import asyncio

import pytest

from spacte_service.jobs.runner import DriverStatus, UnreachableError


@pytest.mark.parametrize(("policy", "after"), [("never", "interrupted"), ("interrupted", "running")])
async def test_a_job_whose_cluster_is_gone(make_world, policy, after):
    world = make_world(resume_jobs=policy)
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    world.says(job["id"], "running", {})
    world.runner.drivers.clear()
    job = (
        await world.until(job["id"], "interrupted") if policy == "never" else await world.until_second_driver(job["id"])
    )
    assert job["state"] == after
    if policy == "never":
        assert job["error"]["code"] == "cluster_lost"
        await world.http.post(f"/v1/jobs/{job['id']}/resume")
        await world.until(job["id"], "running")


async def test_a_driver_that_outlives_its_cluster_is_left_alone(world):
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    world.says(job["id"], "running", {})
    with world.folder(job["id"]).locked():
        world.runner.drivers.clear()
        await asyncio.sleep(0.2)
        (await world.batch.opened()).reconciler.wake()
        await asyncio.sleep(0.1)
        assert (await world.job(job["id"]))["state"] == "running"
    await world.until_second_driver(job["id"])


async def test_a_driver_that_has_only_begun_is_not_lost(world, monkeypatch):
    """Another gateway's, for instance: this one's runner knows nothing of it, and it has no lock yet."""
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    world.runner.drivers.clear()
    for _ in range(5):
        await (await world.batch.opened()).reconciler.reconcile()
    assert (await world.job(job["id"]))["state"] == "running"
    monkeypatch.setattr("spacte_service.jobs.reconciler.STARTUP_S", 0.0)
    await world.until_second_driver(job["id"])


@pytest.mark.parametrize(("finished", "state"), [(5, "succeeded"), (4, "failed")])
async def test_a_job_that_an_earlier_driver_finished_has_succeeded(make_world, finished, state):
    """The second one could not have the folder while the first one was at work in it."""
    world = make_world(resume_jobs="never")
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    world.says(job["id"], "interrupted", {})
    world.runner.drivers[f"{job['id']}-1"] = DriverStatus("failed", "exit code 1")
    await world.until(job["id"], "interrupted")
    await world.http.post(f"/v1/jobs/{job['id']}/resume")
    await world.until_second_driver(job["id"])
    world.says(job["id"], "succeeded", world.finish(job["id"], range(finished)), attempt=1)
    world.runner.drivers[f"{job['id']}-2"] = DriverStatus("failed", "exit code 1")
    job = await world.until(job["id"], state)
    assert job["counts"]["certified"] == finished


async def test_a_cluster_that_is_away_for_a_moment_changes_nothing(world):
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    world.runner.away = True
    (await world.batch.opened()).reconciler.wake()
    await asyncio.sleep(0.2)
    assert (await world.job(job["id"]))["state"] == "running"
    world.runner.away = False
    world.runner.drivers[f"{job['id']}-1"] = DriverStatus("failed", "x")
    await world.until(job["id"], "failed")


async def test_a_job_that_could_not_be_submitted_is_submitted_as_soon_as_the_cluster_is_back(world, monkeypatch):
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
    first.runner.drivers[f"{job['id']}-1"] = DriverStatus("succeeded")
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
    first.runner.drivers[f"{ids[1]}-1"] = DriverStatus("stopped")
    await second.until(ids[1], "cancelled")
    events = await second.events(ids[1])
    assert [data["state"] for _, _, data in events] == ["queued", "running", "cancelling", "cancelled"]


FAILED = {"code": "bad_input", "detail": "The archive is damaged: upload it again."}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "state", "error"),
    [
        ({"state": "failed", "error": FAILED}, "failed", FAILED),
        ({"state": "interrupted"}, "interrupted", {"code": "interrupted", "detail": "The driver was told to stop."}),
        ({"state": "cancelled"}, "cancelled", None),
    ],
)
async def test_the_last_word_of_a_driver_is_what_became_of_its_job(make_world, word, state, error):
    world = make_world(resume_jobs="never")
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    world.says(job["id"], counts=world.finish(job["id"], [0, 1]), **word)
    world.runner.drivers[f"{job['id']}-1"] = DriverStatus("failed", "exit code 1")
    job = await world.until(job["id"], state)
    assert job["error"] == error
    assert job["counts"]["certified"] == 2


async def test_a_job_that_was_done_when_its_cluster_went_has_succeeded(world):
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    with world.folder(job["id"]).locked():
        world.says(job["id"], "succeeded", world.finish(job["id"], range(world.images)))
        world.runner.drivers.clear()
    job = await world.until(job["id"], "succeeded")
    assert job["counts"]["certified"] == world.images


async def test_a_cluster_that_stays_away_interrupts_its_jobs(make_world, monkeypatch):
    monkeypatch.setattr("spacte_service.jobs.reconciler.AWAY_S", 0.05)
    world = make_world(resume_jobs="never")
    job = (await world.create()).json()
    await world.until(job["id"], "running")
    world.says(job["id"], "running", {})
    world.runner.away = True
    job = await world.until(job["id"], "interrupted")
    assert job["error"] == {"code": "cluster_lost", "detail": "The cluster does not answer."}


async def test_a_job_that_cannot_be_looked_after_keeps_no_other_waiting(world, monkeypatch):
    opened = await world.batch.opened()
    prepare = opened.reconciler._folder.prepare
    broken = []

    def prepare_others(row):
        broken.append(row.id)
        if row.id == broken[0]:
            raise RuntimeError("its folder is on a disk that is gone")
        return prepare(row)

    monkeypatch.setattr(opened.reconciler._folder, "prepare", prepare_others)
    first, second = [(await world.create()).json()["id"] for _ in range(2)]
    await world.until(second, "running")
    assert broken[0] == first
    assert (await world.job(first))["state"] == "queued"


async def test_a_store_that_does_not_answer_is_seen_in_readyz(world, monkeypatch):
    opened = await world.batch.opened()
    active = opened.store.jobs.active

    async def checks(expected):
        opened.reconciler.wake()
        while (answer := await world.http.get("/readyz")).status_code != expected:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return answer.json()["checks"]["database"]

    def down():
        raise OSError("the disk is gone")

    assert await checks(200) == "ok"
    monkeypatch.setattr(opened.store.jobs, "active", down)
    assert await checks(503) == "The store does not answer; see the log."
    monkeypatch.setattr(opened.store.jobs, "active", active)
    assert await checks(200) == "ok"
