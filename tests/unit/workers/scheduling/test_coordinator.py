"""Promise: every noise is drawn once for the answer, on whichever samplers there are, and no one waits for ever."""

import asyncio
import gc
import weakref
from collections.abc import Callable, Sequence
from typing import ClassVar

import pytest

from spacte_workers.bench.simulated import probabilities, simulated_image, simulated_votes
from spacte_workers.certification.algorithm import Certification, CertifySpec, Outcome, Progress
from spacte_workers.certification.prediction import PredictSpec
from spacte_workers.deadlines import Deadline
from spacte_workers.errors import DeadlineExceededError, NoWorkersError
from spacte_workers.scheduling.coordinator import Coordinator
from spacte_workers.scheduling.lost_shards import MAX_LOSSES, BrokenRequestError
from spacte_workers.scheduling.observers import SampleCounters
from spacte_workers.scheduling.slots import MAX_IN_FLIGHT
from spacte_workers.shards import SamplerLostError, SampleTask, Votes

PROBABILITIES = (0.1, 0.8, 0.1)
IMAGE = simulated_image(PROBABILITIES)


def spec(index: int = 0, **changes) -> CertifySpec:
    settings = {
        "sigma": 0.5,
        "num_classes": 3,
        "n0": 50,
        "n_max": 2_000,
        "alpha": 0.001,
        "bound": "clopper_pearson",
        "noise": "grid",
        "seed": "e" * 32,
        "image_index": index,
    }
    return CertifySpec(**{**settings, **changes})


def without_coordinator(one: CertifySpec, probabilities: Sequence[float] = PROBABILITIES) -> Outcome:
    """The outcome without a coordinator."""
    run = Certification(one)
    while not run.done:
        for shard in run.next_shards(500):
            run.give(shard, Votes(simulated_votes(shard, probabilities), 0.0))
    return run.outcome()


class SimulatedSampler:
    """Draws so many noises a second, one call after the other."""

    def __init__(self, sampler_id: str, rate: float) -> None:
        self.id = sampler_id
        self._rate = rate
        self._turn = asyncio.Lock()
        self._lost = asyncio.get_running_loop().create_future()

    def kill(self) -> None:
        """End every call, now and from now on, with `SamplerLostError`."""
        self._lost.cancel()

    async def sample_many(self, model: str, tasks: Sequence[SampleTask]) -> list[Votes]:
        async with self._turn:
            await asyncio.wait({self._lost}, timeout=sum(task.shard.size for task in tasks) / self._rate)
            if self._lost.done():
                raise SamplerLostError(f"{self.id} is gone")
            return [
                Votes(simulated_votes(task.shard, probabilities(task.image)), task.shard.size / self._rate)
                for task in tasks
            ]


class Counting:
    """A sampler that answers at once and keeps a list of what it was given."""

    def __init__(self, sampler_id: str = "counting") -> None:
        self.id = sampler_id
        self.calls: list[list[SampleTask]] = []
        self.at_a_time = self.most_at_a_time = 0
        self.gate: asyncio.Event | None = None
        self.fails: Exception | None = None
        self.poison: int | None = None
        self.noise_s = 1e-5

    async def sample_many(self, model: str, tasks: Sequence[SampleTask]) -> list[Votes]:
        self.calls.append(list(tasks))
        self.at_a_time += 1
        self.most_at_a_time = max(self.most_at_a_time, self.at_a_time)
        try:
            await asyncio.sleep(0)
            if self.gate:
                await self.gate.wait()
            if self.fails:
                raise self.fails
            if self.poison in [item.shard.source.image_index for item in tasks]:
                raise RuntimeError("out of memory")
            return [Votes(simulated_votes(w.shard, PROBABILITIES), w.shard.size * self.noise_s) for w in tasks]
        finally:
            self.at_a_time -= 1

    def indices(self) -> list[set[int]]:
        return [{item.shard.source.image_index for item in call} for call in self.calls]


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


async def test_a_cancelled_request_draws_no_more():
    counting = Counting()
    counting.gate = asyncio.Event()
    counters = SampleCounters()
    coordinator = Coordinator(call_seconds=0.01, observer=counters)
    coordinator.add_sampler(counting, 10_000)
    task = asyncio.create_task(coordinator.certify("m", IMAGE, spec(n_max=100_000)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    given = len(counting.calls)
    counting.gate.set()
    await asyncio.sleep(0.02)
    assert len(counting.calls) == given == MAX_IN_FLIGHT
    assert counters.samples_wasted["m", "cancelled"] == counters.samples_drawn["m"] > 0
    assert not coordinator._requests
    await coordinator.close()


@pytest.mark.parametrize("ending", ["cancelled", "deadline", "fails"])
async def test_all_that_was_drawn_for_a_request_without_an_answer_is_wasted(ending):
    counters = SampleCounters()
    coordinator = Coordinator(call_seconds=0.01, observer=counters)
    coordinator.add_sampler(SimulatedSampler("s", 10_000), 10_000)
    deadline = Deadline(100) if ending == "deadline" else None
    one = spec(n0=100_000, n_max=100_000, deadline=ending == "deadline")
    task = asyncio.create_task(coordinator.certify("m", IMAGE, one, deadline=deadline))
    await asyncio.sleep(0.05)
    assert counters.samples_drawn["m"] > 0
    assert not counters.samples_wasted
    if ending == "cancelled":
        task.cancel()
    elif ending == "fails":
        next(iter(coordinator._requests)).fail(RuntimeError("a callback"))
    with pytest.raises((asyncio.CancelledError, DeadlineExceededError, RuntimeError)):
        await task
    await asyncio.sleep(0.1)  # for the calls in flight
    reason = "cancelled" if ending == "cancelled" else "failed"
    assert counters.samples_wasted["m", reason] == counters.samples_drawn["m"]
    await coordinator.close()


async def test_a_deadline_is_answered_with_what_is_proven():
    coordinator = Coordinator()
    coordinator.add_sampler(SimulatedSampler("slow", 5_000), 5_000)
    started = asyncio.get_running_loop().time()
    outcome = await coordinator.certify("m", IMAGE, spec(n_max=10**6, deadline=True), deadline=Deadline(300))
    assert asyncio.get_running_loop().time() - started < 0.5
    assert outcome.stop_reason == "deadline"
    assert outcome.radius > 0
    assert outcome.n > 200
    await coordinator.close()


async def test_a_deadline_before_the_first_look_is_an_error():
    coordinator = Coordinator()
    with pytest.raises(DeadlineExceededError):
        await coordinator.certify("m", IMAGE, spec(deadline=True), deadline=Deadline(10))
    await coordinator.close()


async def test_without_samplers_a_request_waits_for_one():
    coordinator = Coordinator(patience_s=5)
    task = asyncio.create_task(coordinator.certify("m", IMAGE, spec()))
    await asyncio.sleep(0.02)
    coordinator.add_sampler(Counting(), 10_000)
    assert await task == without_coordinator(spec())
    await coordinator.close()


async def test_without_samplers_patience_has_an_end():
    coordinator = Coordinator(patience_s=0.05)
    with pytest.raises(NoWorkersError, match="try again later"):
        await coordinator.certify("m", IMAGE, spec())
    # The last one goes while a request is in flight.
    sampler = SimulatedSampler("dies", 100)
    coordinator.add_sampler(sampler, 100)
    task = asyncio.create_task(coordinator.certify("m", IMAGE, spec()))
    await asyncio.sleep(0.02)
    sampler.kill()
    with pytest.raises(NoWorkersError):
        await task
    await coordinator.close()


async def test_one_request_that_breaks_does_not_take_others_down():
    """Those that shared a failed call are tried again by themselves, and the one to blame is found."""
    counting = Counting()
    counting.poison = 3
    coordinator = Coordinator()
    coordinator.add_sampler(counting, 100_000)
    answers = await asyncio.gather(
        *(coordinator.certify("m", IMAGE, spec(i, n_max=200)) for i in range(6)), return_exceptions=True
    )
    assert [i for i, a in enumerate(answers) if isinstance(a, RuntimeError)] == [3]
    assert all(a == without_coordinator(spec(i, n_max=200)) for i, a in enumerate(answers) if i != 3)
    await coordinator.close()


async def test_a_request_that_kills_samplers_is_given_up():
    """A shard that goes down with one sampler after another is taken for the cause, and the others live."""
    coordinator = Coordinator(on_lost=lambda sampler_id: coordinator.add_sampler(Mortal(sampler_id), 100_000))

    class Mortal(Counting):
        deaths = 0

        async def sample_many(self, model: str, tasks: Sequence[SampleTask]) -> list[Votes]:
            if 2 in [item.shard.source.image_index for item in tasks]:
                Mortal.deaths += 1
                raise SamplerLostError(self.id)
            return await super().sample_many(model, tasks)

    coordinator.add_sampler(Mortal("a"), 100_000)
    answers = await asyncio.gather(
        *(coordinator.certify("m", IMAGE, spec(i, n_max=200)) for i in range(4)), return_exceptions=True
    )
    assert isinstance(answers[2], BrokenRequestError)
    assert Mortal.deaths <= 2 * MAX_LOSSES
    assert all(answers[i] == without_coordinator(spec(i, n_max=200)) for i in (0, 1, 3))
    await coordinator.close()


async def test_votes_of_the_wrong_shape_fail_the_request():
    class Wrong(Counting):
        async def sample_many(self, model: str, tasks: Sequence[SampleTask]) -> list[Votes]:
            return [Votes((item.shard.size,), 0.1) for item in tasks]

    coordinator = Coordinator()
    coordinator.add_sampler(Wrong(), 1_000)
    with pytest.raises(ValueError, match="classes"):
        await asyncio.wait_for(coordinator.certify("m", IMAGE, spec()), 5)
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


async def test_predictions_are_drawn_alike():
    coordinator = Coordinator()
    coordinator.add_sampler(Counting(), 10_000)
    outcome = await coordinator.predict(
        "m", IMAGE, PredictSpec(sigma=0.5, num_classes=3, n=500, alpha=0.001, noise="grid", seed="e" * 32)
    )
    assert (outcome.label, outcome.n) == (1, 500)
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


async def test_a_request_without_time_left_is_in_the_way_of_no_other():
    coordinator = Coordinator()
    coordinator.add_sampler(Counting(), 10_000)
    late = asyncio.create_task(coordinator.certify("m", IMAGE, spec(0, deadline=True), deadline=Deadline(0)))
    other = asyncio.create_task(coordinator.certify("m", IMAGE, spec(1)))
    with pytest.raises(DeadlineExceededError):
        await late
    async with asyncio.timeout(20):
        assert await other == without_coordinator(spec(1))
    await coordinator.close()
