"""Drivers as Ray jobs: each is told which cluster it belongs to, whichever others run on its machine."""

import sys
from typing import Any

import pytest
import ray

from spacte_service.jobs.ray_runner import RayJobsRunner

pytestmark = [pytest.mark.ray, pytest.mark.slow]


class Recorder:
    """In the place of the cluster's job API."""

    def __init__(self) -> None:
        self.entrypoints: dict[str, str] = {}
        self.places: list[dict[str, float] | None] = []

    async def submit(self, submission_id: str, entrypoint: str, place: dict[str, float] | None) -> None:
        self.entrypoints[submission_id] = entrypoint
        self.places.append(place)

    async def status(self, submission_id: str) -> tuple[str, str] | None:
        return ("RUNNING", "") if submission_id in self.entrypoints else None


async def test_a_driver_is_told_its_cluster(local_ray: None) -> None:
    # Ray itself tells a job the address of any cluster that it finds on the machine.
    runner, cluster = RayJobsRunner(), Recorder()
    jobs: Any = cluster
    runner._jobs = jobs
    for _ in range(2):  # the second time it is there already
        await runner.submit("job_a-1", [sys.executable, "-c", "print('a b')"])
    address = ray.get_runtime_context().gcs_address
    expected = f"env RAY_ADDRESS={address} {sys.executable} -c 'print('\"'\"'a b'\"'\"')'"
    assert cluster.entrypoints == {"job_a-1": expected}
    assert cluster.places == [None]


async def test_a_driver_can_be_kept_on_the_node_of_its_gateway(local_ray: None) -> None:
    runner, cluster = RayJobsRunner(here=True), Recorder()
    jobs: Any = cluster
    runner._jobs = jobs
    await runner.submit("job_b-1", ["true"])
    (place,) = cluster.places
    (name,) = place or {}
    assert ray.cluster_resources()[name] == 1  # this node alone has it
    assert name.startswith("node:")
    assert "head" not in name

    @ray.remote(num_cpus=0, resources=place)
    def where() -> str:
        return ray.get_runtime_context().get_node_id()

    assert ray.get(where.remote()) == ray.get_runtime_context().get_node_id()
