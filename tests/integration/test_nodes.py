"""Nodes that join the cluster are used, and nodes that are lost are not missed: without a restart of anything."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from spacte_client.types import CertifyParams
from spacte_core.kernels.cpu.targets import VARIABLE, targets_for
from spacte_workers.cluster import RayPool
from spacte_workers.engine.precision_rule import PrecisionRule
from spacte_workers.images import from_array
from spacte_workers.serving.runtime import Runtime

pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

SEED = "00112233445566778899aabbccddeeff"
IMAGE = from_array(np.random.default_rng(0).integers(0, 256, (1, 8, 8), dtype=np.uint8), input_shape=(1, 8, 8))

RAY_START = """
import ray._private.services as services
services.get_node_ip_address = lambda address=None: "127.0.0.1"
from ray.scripts.scripts import main
main()
"""
"""`ray`, which takes 127.0.0.1 as it is, and not for this machine's address, where the local Ray does not listen."""


class Node:
    """A second Ray node on this machine, as `ray start` makes it."""

    def __init__(self, cores: int, descendants: Callable[[int], set[int]], variables: Mapping[str, str]) -> None:
        self._descendants = descendants
        address = ray.get_runtime_context().gcs_address
        command = [
            sys.executable,
            "-c",
            RAY_START,
            "start",
            f"--address={address}",
            f"--num-cpus={cores}",
            "--num-gpus=0",
            "--block",
        ]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **variables},
        )

    def kill(self) -> None:
        """Pull the plug: every process of the node at once."""
        for pid in [self.process.pid, *self._descendants(self.process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(30)


@pytest.fixture
def start_node(local_ray: None, descendants: Callable[[int], set[int]]) -> Iterator[Callable[..., Node]]:
    nodes: list[Node] = []

    def start(cores: int, **variables: str) -> Node:
        before = {node["NodeID"] for node in ray.nodes()}  # a lost node is listed as alive for a while
        for _ in range(3):  # `ray start` gives up after 30 s, which a busy machine may need
            nodes.append(Node(cores, descendants, variables))
            while nodes[-1].process.poll() is None:
                if any(node["Alive"] and node["NodeID"] not in before for node in ray.nodes()):
                    return nodes[-1]
                time.sleep(0.5)
        raise RuntimeError("the node did not start")

    yield start
    for node in nodes:
        if node.process.poll() is None:
            node.kill()
    deadline = time.monotonic() + 60
    while sum(node["Alive"] for node in ray.nodes()) > 1 and time.monotonic() < deadline:
        time.sleep(0.5)


async def until(true: Callable[[], bool], seconds: float) -> float:
    started = time.monotonic()
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return time.monotonic() - started


async def test_a_new_node_is_used_and_a_lost_one_is_replaced(
    tmp_path: Path, make_checkpoint: Callable[..., str], start_node: Callable[..., Node]
) -> None:
    make_checkpoint(tmp_path / "digits")
    pool = RayPool(threads=2)  # the first node has four cores: two samplers
    runtime = Runtime(tmp_path, pool, precision="fp32", allow_client_seed=True, start_wait_s=200)
    params = CertifyParams(n=100_000, seed=SEED)
    await runtime.start()
    try:
        await until(lambda: pool.status().ready == 2, 200)
        alone = await runtime.certify(IMAGE, params, request_id="req")

        node = await asyncio.to_thread(start_node, 2)
        await until(lambda: pool.status().ready == 3, 200)
        assert len({each.node for each in pool.supervisors}) == 2
        with_three = await runtime.certify(IMAGE, params, request_id="req")
        assert with_three.counts == alone.counts

        disturbed = asyncio.create_task(runtime.certify(IMAGE, params, request_id="req"))
        await asyncio.sleep(0.3)
        node.kill()
        assert (await asyncio.wait_for(disturbed, 200)).counts == alone.counts
        await until(lambda: pool.status().ready < 3, 30)
        assert set(runtime.ready().values()) == {"ok"}

        await asyncio.to_thread(start_node, 2)
        # Two on the first node and one on the new one, wherever the third was in the meantime.
        await until(lambda: pool.status().ready == 3 and len({each.node for each in pool.supervisors}) == 2, 200)
        assert (await runtime.certify(IMAGE, params, request_id="req")).counts == alone.counts
    finally:
        await runtime.stop()


async def test_samplers_that_have_no_room_yet_wait_for_a_node(
    tmp_path: Path, make_checkpoint: Callable[..., str], start_node: Callable[..., Node]
) -> None:
    make_checkpoint(tmp_path / "digits")
    pool = RayPool(threads=4, share=0.8, min_samplers=2, max_samplers=2)  # room for one on the first node
    runtime = Runtime(tmp_path, pool, precision="fp32", start_wait_s=200)
    await runtime.start()
    try:
        await until(lambda: pool.status().ready == 1, 100)
        await asyncio.sleep(5)
        assert (pool.status().ready, pool.status().starting) == (1, 1)
        await runtime.certify(IMAGE, CertifyParams(n=100), request_id="req")  # one is enough to serve
        await asyncio.to_thread(start_node, 4)
        await until(lambda: pool.status().ready == 2, 200)
    finally:
        await runtime.stop()


@pytest.mark.parametrize("portable", [True, False], ids=["portable", "each its own"])
async def test_a_node_of_another_processor_votes_where_kernels_are_portable(
    tmp_path: Path, make_checkpoint: Callable[..., str], start_node: Callable[..., Node], portable: bool
) -> None:
    best, *others = [target.name for target in targets_for(torch.uint8)] or [""]
    if not others:
        pytest.skip(f"one machine cannot stand for two kinds here: of the kernels' targets it has {best or 'none'}")
    make_checkpoint(tmp_path / "digits")
    pool = RayPool(threads=4)  # one sampler a node
    rule = PrecisionRule(min_agreement=0.5, portable=portable)
    runtime = Runtime(tmp_path, pool, precision="int8", rule=rule, allow_client_seed=True, start_wait_s=200)
    params = CertifyParams(n=20_000, seed=SEED)
    await runtime.start()
    try:
        await until(lambda: pool.status().ready == 1, 200)
        alone = await runtime.certify(IMAGE, params, request_id="req")
        assert alone.versions["kernels"].startswith("portable/") == portable
        await asyncio.to_thread(start_node, 4, **{VARIABLE: others[-1]})
        if portable:
            await until(lambda: pool.status().ready == 2, 200)
            first = next(each for each in pool.supervisors if each.node == ray.get_runtime_context().get_node_id())
            assert first.pid is not None
            os.kill(first.pid, signal.SIGKILL)  # the other votes until this one is back
            both = await runtime.certify(IMAGE, params, request_id="req")
            assert (both.counts, both.versions["kernels"]) == (alone.counts, alone.versions["kernels"])
        else:
            await until(lambda: len(pool.supervisors) == 2 and pool.supervisors[1].pid is not None, 200)
            await asyncio.sleep(15)
            assert pool.status().ready == 1
    finally:
        await runtime.stop()
