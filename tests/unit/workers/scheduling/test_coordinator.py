"""Promise: every noise is drawn once for the answer, on whichever samplers there are, and then forgotten."""

import asyncio
import gc
import weakref
from collections.abc import Callable

import pytest

from spacte_workers.certification.algorithm import Progress
from spacte_workers.certification.prediction import PredictSpec
from spacte_workers.errors import NoWorkersError
from spacte_workers.scheduling.coordinator import Coordinator
from spacte_workers.scheduling.observers import SampleCounters
from spacte_workers.scheduling.slots import MAX_IN_FLIGHT

from .conftest import IMAGE, Counting, SimulatedSampler, spec, without_coordinator


@pytest.mark.parametrize("samplers", [1, 2, 5])
@pytest.mark.parametrize("rule", [{}, {"target_radius": 0.3}, {"tolerance": 0.05, "bound": "two_class"}])
async def test_the_outcome_does_not_depend_on_the_samplers(samplers, rule):
    coordinator = Coordinator(call_seconds=0.01)
    for i in range(samplers):
        coordinator.add_sampler(SimulatedSampler(f"s{i}", 20_000 * (i + 1)), 1_000, batch=1 + 16 * i)
    assert await coordinator.certify("m", IMAGE, spec(**rule)) == without_coordinator(spec(**rule))
    await coordinator.close()


async def test_samplers_may_come_and_go():
    """Killed, removed, replaced and added while a certificate is drawn: the same certificate."""
    counters = SampleCounters()
    lost: list[str] = []
    coordinator = Coordinator(call_seconds=0.01, observer=counters, on_lost=lost.append)
    killed = SimulatedSampler("killed", 10_000)
    coordinator.add_sampler(killed, 10_000)
    coordinator.add_sampler(SimulatedSampler("removed", 10_000), 10_000)
    coordinator.add_sampler(SimulatedSampler("stays", 10_000), 10_000)
    answer = asyncio.create_task(coordinator.certify("m", IMAGE, spec(n_max=8_000)))
    await asyncio.sleep(0.03)
    killed.kill()
    await asyncio.sleep(0.03)
    coordinator.remove_sampler("removed")
    coordinator.remove_sampler("removed")  # nothing happens
    coordinator.add_sampler(SimulatedSampler("stays", 10_000), 10_000)  # a new one of the same name
    await asyncio.sleep(0.03)
    coordinator.add_sampler(SimulatedSampler("late", 10_000), 10_000)
    assert await answer == without_coordinator(spec(n_max=8_000))
    assert lost == ["killed"]
    assert counters.shards_retried["lost"] >= 1
    assert counters.shards_retried["removed"] >= 1
    assert len(coordinator._slots.by_id) == 2
    await coordinator.close()


async def test_predictions_are_drawn_alike():
    coordinator = Coordinator()
    coordinator.add_sampler(Counting(), 10_000)
    outcome = await coordinator.predict(
        "m", IMAGE, PredictSpec(sigma=0.5, num_classes=3, n=500, alpha=0.001, noise="grid", seed="e" * 32)
    )
    assert (outcome.label, outcome.n) == (1, 500)
    await coordinator.close()


async def test_progress_and_start_are_told():
    coordinator = Coordinator(call_seconds=0.02)
    coordinator.add_sampler(SimulatedSampler("s", 5_000), 5_000)
    told, started = [], []
    await coordinator.certify("m", IMAGE, spec(), on_progress=told.append, on_start=lambda: started.append(1))
    assert started == [1]
    assert 2 <= len(told) <= 6  # 0.4 s, ten times a second at most
    assert [p.samples for p in told] == sorted(p.samples for p in told)
    with pytest.raises(ZeroDivisionError):  # the caller's own error comes back to the caller
        await coordinator.certify("m", IMAGE, spec(), on_progress=lambda _: 1 / 0)
    await coordinator.close()


async def test_waste_is_counted():
    counters = SampleCounters()
    coordinator = Coordinator(observer=counters)
    coordinator.add_sampler(Counting(), 100_000)
    outcome = await coordinator.certify("m", IMAGE, spec(target_radius=0.2, n_max=100_000))
    await asyncio.sleep(0.02)
    used = outcome.n + outcome.n0
    assert counters.samples_drawn["m"] == used + counters.samples_wasted["m", "past_stop"]
    assert counters.samples_drawn["m"] <= 50 + max(256, 4 * outcome.n)
    assert counters.calls["m"] > 0
    await coordinator.close()


async def test_what_is_answered_is_forgotten_however_busy_the_samplers_are():
    """Idle samplers speculate and so clear the queues; busy ones never get that far."""
    coordinator = Coordinator(call_seconds=0.001)
    coordinator.add_sampler(Counting(), 1e5)
    left = iter(range(200))
    kept: weakref.WeakSet[Callable[[Progress], None]] = weakref.WeakSet()

    async def caller() -> None:
        for index in left:

            def told(_: Progress) -> None:
                """Held by the request alone."""

            kept.add(told)
            await coordinator.certify("m", IMAGE, spec(index, n_max=200), on_progress=told)

    others = [asyncio.create_task(coordinator.certify("m", IMAGE, spec(i, n_max=10**6))) for i in range(3)]
    await asyncio.gather(*(caller() for _ in range(5)))
    assert not any(other.done() for other in others)
    gc.collect()
    assert len(kept) <= MAX_IN_FLIGHT
    for other in others:
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await coordinator.close()


async def test_closing_ends_every_request():
    counting = Counting()
    counting.gate = asyncio.Event()
    coordinator = Coordinator()
    coordinator.add_sampler(counting, 10_000)
    task = asyncio.create_task(coordinator.certify("m", IMAGE, spec()))
    await asyncio.sleep(0.01)
    await coordinator.close()
    with pytest.raises(NoWorkersError, match="shutting down"):
        await task
    with pytest.raises(NoWorkersError, match="shutting down"):
        await coordinator.certify("m", IMAGE, spec())
    assert asyncio.all_tasks() == {asyncio.current_task()}
