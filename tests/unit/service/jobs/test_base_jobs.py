"""Promise: a job may name another one in place of its images, and gets what that one had, if its caller sees it."""

import pytest

from spacte_service.jobs.runner import DriverStatus
from spacte_service.keys import make_key, write_keys

from .conftest import IMAGES


async def succeeded(world, **fields):
    """The id of a job that has succeeded."""
    job_id = (await world.create(**fields)).json()["id"]
    await world.until(job_id, "running")
    counts = world.finish(job_id, range(IMAGES))
    world.says(job_id, "succeeded", counts)
    world.runner.drivers[f"{job_id}-1"] = DriverStatus("succeeded")
    await world.until(job_id, "succeeded")
    return job_id


async def recertify(world, job_id, **fields):
    return await world.http.post("/v1/jobs", json={"base_job": job_id} | fields)


async def test_images_options_and_results_are_those_of_the_base(world):
    base = await succeeded(world, params={"n": 500, "alpha": 0.01})
    answer = await recertify(world, base)
    assert answer.status_code == 201
    job = answer.json()
    assert (job["base_job"], job["model"], job["counts"]["total"]) == (base, "digits", IMAGES)
    assert (job["params"]["n"], job["params"]["alpha"], job["params"]["seed"]) == (500, 0.01, None)
    assert job["input"] == (await world.job(base))["input"]
    await world.until(job["id"], "running")
    folder = world.folder(job["id"])
    spec = folder.spec()
    assert (spec.base.id, spec.base.done) == (base, IMAGES)
    assert spec.params.seed != world.folder(base).spec().params.seed
    assert folder.base_file.read_bytes() == world.folder(base).results_file.read_bytes()
    # Whatever becomes of the base job.
    assert (await world.http.delete(f"/v1/jobs/{base}")).status_code == 204
    assert folder.base_file.exists()


async def test_the_checkpoint_of_a_base_is_kept(world):
    base = await succeeded(world)
    job = (await recertify(world, base)).json()["id"]
    await world.http.delete(f"/v1/jobs/{base}")
    store = (await world.batch.opened()).store
    assert (await world.until(job, "running"))["base_job"] == base
    assert world.folder(job).spec().base.checkpoint in store.jobs.checkpoints()


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [({"params": {"n": 100}}, ""), ({"input": {"type": "dataset", "name": "digits"}}, ""), ({"base_job": None}, "")],
)
async def test_what_does_not_go_together(world, fields, pointer):
    base = await succeeded(world)
    answer = await recertify(world, base, **fields)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert len((await world.http.get("/v1/jobs")).json()["data"]) == 1


async def test_a_base_that_cannot_be_used(world):
    assert (await recertify(world, "job_x")).json()["code"] == "job_not_found"
    running = (await world.create()).json()["id"]
    answer = await recertify(world, running)
    assert (answer.status_code, answer.json()["code"]) == (409, "job_state")
    await world.until(running, "running")
    world.says(running, "succeeded", world.finish(running, range(IMAGES)))
    world.runner.drivers[f"{running}-1"] = DriverStatus("succeeded")
    await world.until(running, "succeeded")
    assert (await recertify(world, running, model="other")).json()["code"] == "model_not_found"
    results = world.folder(running).results_file
    results.write_bytes(results.read_bytes().replace(b'"radius":0.3', b'"radius":9.3', 1))
    answer = await recertify(world, running)
    assert (answer.status_code, answer.json()["code"]) == (409, "job_state")
    assert "not what its driver wrote" in answer.json()["detail"]
    assert not [path for path in world.folder(running).path.parent.iterdir() if path.name != running]


async def test_a_job_of_another_caller_is_not_there(make_world, tmp_path):
    secrets, keys = zip(*(make_key(name, "user") for name in ("alice", "bob")), strict=True)
    write_keys(tmp_path / "keys.json", list(keys))
    world = make_world(keys_file=tmp_path / "keys.json")
    world.http.headers["Authorization"] = f"Bearer {secrets[0]}"
    base = await succeeded(world)
    world.http.headers["Authorization"] = f"Bearer {secrets[1]}"
    answer = await recertify(world, base)
    assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")
