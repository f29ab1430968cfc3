"""Promise: calls are full and of the wanted length, short requests go first, and none is starved."""

import asyncio
from collections.abc import Sequence
from typing import ClassVar

import pytest

from spacte_workers.scheduling.coordinator import Coordinator
from spacte_workers.scheduling.slots import MAX_IN_FLIGHT
from spacte_workers.shards import SampleTask, Votes

from .conftest import IMAGE, Counting, SimulatedSampler, spec


async def test_a_sampler_works_on_one_call_while_one_waits():
    counting = Counting()
    counting.gate = asyncio.Event()
    coordinator = Coordinator(call_seconds=0.01)
    coordinator.add_sampler(counting, 10_000)
    task = asyncio.create_task(coordinator.certify("m", IMAGE, spec()))
    await asyncio.sleep(0.02)
    assert counting.at_a_time == MAX_IN_FLIGHT
    counting.gate.set()
    await task
    assert counting.most_at_a_time == MAX_IN_FLIGHT
    await coordinator.close()


async def test_small_requests_share_a_call_and_models_do_not():
    counting = Counting()
    coordinator = Coordinator()
    coordinator.add_sampler(counting, 100_000)
    await asyncio.gather(*(coordinator.certify(f"m{i % 2}", IMAGE, spec(i, n0=10, n_max=40)) for i in range(10)))
    assert sorted(map(sorted, counting.indices())) == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]
    await coordinator.close()


async def test_a_request_is_shared_by_idle_samplers():
    samplers = [Counting(f"s{i}") for i in range(4)]
    coordinator = Coordinator()
    for sampler in samplers:
        coordinator.add_sampler(sampler, 100_000)
    await coordinator.certify("m", IMAGE, spec(n0=400, n_max=3_600))
    assert [sum(w.shard.size for w in sampler.calls[0]) for sampler in samplers] == [1_000] * 4
    await coordinator.close()


async def test_calls_are_full_batches_of_the_wanted_length():
    counting = Counting()
    coordinator = Coordinator(call_seconds=0.01)
    coordinator.add_sampler(counting, 50, batch=128)  # the true rate is 100,000
    await coordinator.certify("m", IMAGE, spec(n0=100, n_max=100_000))
    sizes = [sum(w.shard.size for w in call) for call in counting.calls]
    assert sizes[0] == 128
    assert all(size % 128 == 0 for size in sizes[:-1])
    assert sizes[-4] == round(100_000 * 0.01 / 128) * 128
    await coordinator.close()


async def test_interactive_requests_go_first_and_batch_ones_are_not_starved():
    counting = Counting()
    counting.gate = asyncio.Event()
    coordinator = Coordinator(call_seconds=0.01)
    coordinator.add_sampler(counting, 40_000, batch=100)  # the first calls are of 100 noises
    asked = [coordinator.certify("m", IMAGE, spec(i, n0=100, n_max=100), priority="batch") for i in range(4)]
    asked += [coordinator.certify("m", IMAGE, spec(10 + i, n0=100, n_max=10_000)) for i in range(2)]
    tasks = [asyncio.ensure_future(one) for one in asked]
    await asyncio.sleep(0.01)
    counting.gate.set()
    await asyncio.gather(*tasks)
    order = counting.indices()
    assert order[0] == {10}
    last = max(i for i, indices in enumerate(order) if 10 in indices)
    assert order.index({11}) > last, "of two alike, the first ends before the second begins"
    first_batch = next(i for i, indices in enumerate(order) if min(indices) < 10)
    assert first_batch < 10
    assert not coordinator._requests
    await coordinator.close()


async def test_the_shortest_request_goes_first_and_those_alike_one_after_the_other():
    counting = Counting()
    coordinator = Coordinator(call_seconds=0.01)
    counting.noise_s = 1e-3
    coordinator.add_sampler(counting, 1_000, batch=100)
    sizes = (500, 300, 300, 200)
    await asyncio.gather(*(coordinator.certify("m", IMAGE, spec(i, n0=100, n_max=n)) for i, n in enumerate(sizes)))
    order = [min(indices) for indices in counting.indices()]
    ends = [len(order) - order[::-1].index(i) for i in range(4)]
    assert sorted(range(4), key=ends.__getitem__) == [3, 1, 2, 0]
    await coordinator.close()


async def test_short_requests_without_end_do_not_starve_a_long_one():
    counting = Counting()
    coordinator = Coordinator(call_seconds=0.01)
    counting.noise_s = 1e-4
    coordinator.add_sampler(counting, 10_000, batch=100)
    long = asyncio.create_task(coordinator.certify("m", IMAGE, spec(0, n0=100, n_max=2_000)))

    async def short_ones(first: int) -> int:
        for number in range(first, 1_000):
            await coordinator.certify("m", IMAGE, spec(number, n0=100, n_max=100))
            if long.done():
                return number
        return 1_000

    assert max(await asyncio.gather(short_ones(1), short_ones(2), short_ones(3))) < 500
    await coordinator.close()


async def test_a_sampler_has_a_speed_with_each_model():
    """Calls of a tenth of a second hold a hundred times the noises of a model that is a hundred times as fast."""

    class OfTwoModels:
        id = "s"
        rates: ClassVar = {"slow": 1_000, "fast": 100_000}

        def __init__(self) -> None:
            self._samplers = {model: SimulatedSampler("s", rate) for model, rate in self.rates.items()}

        async def sample_many(self, model: str, tasks: Sequence[SampleTask]) -> list[Votes]:
            sizes[model].append(sum(task.shard.size for task in tasks))
            return await self._samplers[model].sample_many(model, tasks)

    sizes: dict[str, list[int]] = {"slow": [], "fast": []}
    coordinator = Coordinator(call_seconds=0.02)
    coordinator.add_sampler(OfTwoModels(), 10_000)
    coordinator.expect("slow", 1_200, 1)
    assert coordinator.rate("slow") == 1_200
    assert coordinator.rate("unknown") == 10_000
    slow = (coordinator.certify("slow", IMAGE, spec(i, n0=50, n_max=100)) for i in range(2))
    fast = (coordinator.certify("fast", IMAGE, spec(i, n0=50, n_max=10_000)) for i in range(2))
    await asyncio.gather(*slow, *fast)
    assert coordinator.rate("slow") == pytest.approx(1_000, rel=0.2)
    assert coordinator.rate("fast") == pytest.approx(100_000, rel=0.2)
    assert max(sizes["slow"]) <= 25
    assert max(sizes["fast"]) >= 1_500
    await coordinator.close()
