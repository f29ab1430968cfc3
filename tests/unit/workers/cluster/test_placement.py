"""Placement: a node gets as many samplers as it has room for, wherever Ray put them at first."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from spacte_workers.cluster import pool as pools
from spacte_workers.cluster.placement import misplaced, spare_nodes
from spacte_workers.scheduling.coordinator import Coordinator


def test_the_emptiest_node_comes_first_and_each_as_often_as_it_has_room() -> None:
    assert spare_nodes({"a": 2, "b": 3}, []) == ["a", "b", "a", "b", "b"]
    assert spare_nodes({"a": 2, "b": 3}, ["b"]) == ["a", "a", "b", "b"]
    assert spare_nodes({"a": 2}, ["a", "a"]) == []


def test_samplers_on_lost_nodes_or_nowhere_take_no_room() -> None:
    assert spare_nodes({"a": 1}, ["gone", None]) == ["a"]
    assert misplaced({"a": 1}, ["gone", None]) is None


def test_one_of_too_many_on_a_node_is_misplaced() -> None:
    assert misplaced({"a": 2, "b": 1}, ["b", "a", "a"]) is None
    assert misplaced({"a": 1, "b": 1}, ["b", "a", "a"]) == 1


class Actors:
    """In the place of Ray's: they are asked for, and come up when they are let."""

    def __init__(self) -> None:
        self.devices: list[str] = []
        self.up = asyncio.Event()

    def options(self, **_: Any) -> "Actors":
        return self

    def remote(self, _threads: int, device: str, _yields: bool) -> Any:
        self.devices.append(device)
        return SimpleNamespace(ping=SimpleNamespace(remote=self._ping))

    async def _ping(self) -> Any:
        await self.up.wait()
        return SimpleNamespace(pid=1, node="1" * 56, incarnation="a" * 32, loading=())


async def _nothing() -> None:
    pass


@pytest.mark.parametrize(("up", "devices"), [(False, ["cpu", "cuda", "cuda"]), (True, ["cpu"])])
async def test_gpus_that_join_before_any_sampler_is_up_are_used(
    monkeypatch: pytest.MonkeyPatch, up: bool, devices: list[str]
) -> None:
    """As an autoscaler brings them; once samplers vote on CPUs, all keep to CPUs."""
    actors, nodes = Actors(), [{"NodeID": "1" * 56, "Resources": {"CPU": 1.0}}]
    monkeypatch.setattr(pools, "_RECOUNT_EVERY_S", 0.01)
    monkeypatch.setattr(pools, "_nodes", lambda: list(nodes))
    monkeypatch.setattr(pools, "_remote", lambda *_, **__: actors)
    monkeypatch.setattr("ray.kill", lambda *_, **__: None)
    pool = pools.RayPool(max_samplers=1 if up else 2)
    monkeypatch.setattr(pool, "_connection", SimpleNamespace(open=_nothing, close=_nothing))
    await pool.start(Coordinator())
    try:
        if up:
            actors.up.set()
            async with asyncio.timeout(20):
                await pool.supervisors[0].up.wait()
        nodes.append({"NodeID": "2" * 56, "Resources": {"CPU": 8.0, "GPU": 2.0}})
        async with asyncio.timeout(20):
            while actors.devices != devices:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert actors.devices == devices
        assert pool.status().device == devices[-1]
    finally:
        await pool.stop()
