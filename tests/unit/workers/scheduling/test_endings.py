"""Promise: no request waits for ever: cancelled, late, broken or without samplers, it ends and harms no other."""

import asyncio
from collections.abc import Sequence

import pytest

from spacte_workers.deadlines import Deadline
from spacte_workers.errors import DeadlineExceededError, NoWorkersError
from spacte_workers.scheduling.coordinator import Coordinator
from spacte_workers.scheduling.lost_shards import MAX_LOSSES, BrokenRequestError
from spacte_workers.scheduling.observers import SampleCounters
from spacte_workers.scheduling.slots import MAX_IN_FLIGHT
from spacte_workers.shards import SamplerLostError, SampleTask, Votes

from .conftest import IMAGE, Counting, SimulatedSampler, spec, without_coordinator


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
