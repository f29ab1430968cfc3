"""Promise: a key's unfinished jobs are counted, its jobs' noises too, and its open streams end with it."""

import asyncio

import pytest

from spacte_service.jobs.runner import DriverStatus
from spacte_service.keys import make_key, write_keys
from spacte_service.quota_settings import Quotas

from .conftest import IMAGES


@pytest.fixture
def world_of(make_world, tmp_path):
    """A gateway whose one key has these quotas."""

    def make(**quotas):
        secret, key = make_key("alice", "user", quotas=Quotas(**quotas))
        write_keys(tmp_path / "keys.json", [key])
        world = make_world(keys_file=tmp_path / "keys.json")
        world.http.headers["Authorization"] = f"Bearer {secret}"
        return world

    return make


async def test_unfinished_jobs(world_of):
    world = world_of(jobs=1)
    first = (await world.create()).json()["id"]
    refused = await world.create(headers={"Idempotency-Key": "second"})
    assert (refused.status_code, refused.json()["quota"]) == (429, "jobs")
    await world.until(first, "running")
    world.runner.drivers[f"{first}-1"] = DriverStatus("failed", "x")
    await world.until(first, "failed")
    again = await world.create(headers={"Idempotency-Key": "second"})
    assert again.status_code == 201
    refused = await world.http.post(f"/v1/jobs/{first}/resume")
    assert (refused.status_code, refused.json()["quota"]) == (429, "jobs")


async def test_the_noises_of_a_job(world_of):
    world = world_of(noises=IMAGES * 1_000 + 1_000)
    refused = await world.create(params={"n0": 100, "n": 10_000})
    assert (refused.status_code, refused.json()["quota"], "retry-after" in refused.headers) == (429, "noises", False)
    assert (await world.create(params={"n0": 100, "n": 900})).status_code == 201
    refused = await world.create(params={"n0": 100, "n": 900})
    assert (refused.status_code, "retry-after" in refused.headers) == (429, True)
    assert len((await world.http.get("/v1/jobs")).json()["data"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("path", ["events", "results?follow=true"])
async def test_a_stream_ends_with_its_key(world_of, tmp_path, path):
    world = world_of()
    job = (await world.create()).json()["id"]
    await world.until(job, "running")
    stream = asyncio.create_task(world.http.get(f"/v1/jobs/{job}/{path}"))
    await asyncio.sleep(0.7)
    assert not stream.done()
    write_keys(tmp_path / "keys.json", [make_key("bob", "user")[1]])
    async with asyncio.timeout(10):  # two seconds where nothing else is at work
        await stream
    assert (await world.http.get(f"/v1/jobs/{job}")).status_code == 401
