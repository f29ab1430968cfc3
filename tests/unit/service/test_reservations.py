"""Promise: a refused request that comes back at the time it was told is not refused again, whatever the crowd."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from spacte_client import AsyncClient
from spacte_service import Settings
from spacte_service.admission import Admission, Arrival, Permit
from spacte_service.admission.reservations import GRACE_S, Reservations
from spacte_service.problems import ProblemError


class Clock:
    """The time of `Admission`, turned by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("spacte_service.admission.retry_after.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def refused(admission: Admission, arrival: Arrival) -> float:
    """Seconds until it may come back."""
    with pytest.raises(ProblemError) as caught:
        await admission.permit(arrival).__aenter__()
    assert caught.value.code == "overloaded"
    assert caught.value.retry_after_s is not None
    return caught.value.retry_after_s


async def test_a_request_that_comes_back_in_time_waits_and_goes_before_new_ones(clock: Clock) -> None:
    admission = Admission(permits=1, running=1)
    admission.retry_after.timed(2.0)
    inside = admission.permit(Arrival("a"))
    await inside.__aenter__()
    seconds = await refused(admission, admission.arrival("b", "key"))
    assert seconds == pytest.approx(2.0)
    clock.now += seconds
    back = admission.arrival("b", "key")
    assert back.reserved
    admission.refuse_early(back)
    coming: asyncio.Task[Permit] = asyncio.create_task(admission.permit(back).__aenter__())
    await asyncio.sleep(0)
    assert admission.waiting == 1
    await inside.__aexit__(None, None, None)
    with pytest.raises(ProblemError):  # the permit that has just become free is taken
        admission.refuse_early(admission.arrival("c", "first time"))
    assert (await coming).arrival == back
    assert admission.permits.held == 1


async def test_a_request_that_comes_too_early_keeps_its_reservation(clock: Clock) -> None:
    admission = Admission(permits=1, running=1)
    admission.retry_after.timed(4.0)
    async with admission.permit(Arrival("a")):
        assert await refused(admission, admission.arrival("b", "k")) == pytest.approx(4.0)
        clock.now += 1.0
        early = admission.arrival("b", "k")
        assert not early.reserved
        assert await refused(admission, early) == pytest.approx(3.0)
        clock.now += 3.0
        assert admission.arrival("b", "k").reserved
        assert not admission.arrival("b", "k").reserved  # a reservation is good once


async def test_a_request_that_comes_much_too_late_is_a_new_one(clock: Clock) -> None:
    admission = Admission(permits=1, running=1)
    async with admission.permit(Arrival("a")):
        seconds = await refused(admission, admission.arrival("b", "k"))
        clock.now += 1.5 * seconds + GRACE_S + 0.1
        assert not admission.arrival("b", "k").reserved


async def test_a_key_belongs_to_its_caller(clock: Clock) -> None:
    admission = Admission(permits=1, running=1)
    async with admission.permit(Arrival("a")):
        clock.now += await refused(admission, admission.arrival("b", "k"))
        assert not admission.arrival("c", "k").reserved
        assert admission.arrival("b", "k").reserved


async def test_each_request_is_told_a_time_of_its_own(clock: Clock) -> None:
    admission = Admission(permits=4, running=2)
    admission.retry_after.timed(1.0)
    permits = [admission.permit(Arrival("a")) for _ in range(4)]
    for permit in permits:
        await permit.__aenter__()
    times = [await refused(admission, admission.arrival("b", str(i))) for i in range(10)]
    assert times == pytest.approx([2.0 + 0.5 * i for i in range(10)])


async def test_a_cancelled_wait_for_a_permit_leaves_no_gap() -> None:
    admission = Admission(permits=1, running=1)
    inside = admission.permit(Arrival("a"))
    await inside.__aenter__()
    first = asyncio.create_task(admission.permit(Arrival("b", "1", reserved=True)).__aenter__())
    second = asyncio.create_task(admission.permit(Arrival("b", "2", reserved=True)).__aenter__())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert admission.waiting == 1
    await inside.__aexit__(None, None, None)
    assert (await second).held


async def test_a_permit_granted_to_a_cancelled_request_goes_to_the_next() -> None:
    admission = Admission(permits=1, running=1)
    inside = admission.permit(Arrival("a"))
    await inside.__aenter__()
    waiting = [asyncio.create_task(admission.permit(Arrival("b", key, reserved=True)).__aenter__()) for key in "12"]
    await asyncio.sleep(0)
    await inside.__aexit__(None, None, None)  # the first one's permit now, which does not know it yet
    waiting[0].cancel()
    await asyncio.gather(waiting[0], return_exceptions=True)
    assert (await waiting[1]).arrival.key == "2"
    assert admission.permits.held == 1


async def test_a_caller_at_the_limit_lets_others_pass() -> None:
    admission = Admission(permits=2, running=2, per_caller=1)
    a, b = admission.permit(Arrival("a")), admission.permit(Arrival("b"))
    await a.__aenter__()
    await b.__aenter__()
    greedy = asyncio.create_task(admission.permit(Arrival("a", "2", reserved=True)).__aenter__())
    other = asyncio.create_task(admission.permit(Arrival("c", "1", reserved=True)).__aenter__())
    await asyncio.sleep(0)
    await b.__aexit__(None, None, None)
    assert (await other).arrival.caller == "c"
    assert not greedy.done()
    await a.__aexit__(None, None, None)
    assert (await greedy).arrival.caller == "a"


async def test_a_request_that_came_back_is_not_displaced() -> None:
    admission = Admission(permits=3, running=1)
    permits = [admission.permit(Arrival("a", str(i), reserved=True)) for i in range(3)]
    inside = [await permit.__aenter__() for permit in permits]
    turns = [asyncio.create_task(permit.turn()) for permit in inside]
    await asyncio.sleep(0)
    assert await refused(admission, Arrival("b")) > 0
    for permit, turn in zip(permits, turns, strict=True):
        await turn
        await permit.__aexit__(None, None, None)


def test_reservations_are_few_and_go_first_to_callers_who_have_fewer() -> None:
    reservations = Reservations(most=3)
    for key in "123":
        reservations.reserve("greedy", key, now=0, earliest=1, gap=1)
    assert reservations.reserve("greedy", "4", now=0, earliest=1, gap=1) == 4  # a time, and no reservation
    assert len(reservations) == 3
    due = reservations.reserve("other", "1", now=0, earliest=1, gap=1)
    assert len(reservations) == 3
    assert not reservations.use("greedy", "3", due)  # the latest of the one who has most made room
    assert reservations.use("other", "1", due)
    assert reservations.use("greedy", "2", due)
    assert not reservations.use("greedy", "4", due + 1)


def test_reservations_that_were_not_used_are_dropped() -> None:
    reservations = Reservations(most=100)
    for i in range(50):
        reservations.reserve("a", str(i), now=0, earliest=1, gap=0)
    reservations.reserve("a", "late", now=1000, earliest=1001, gap=0)
    assert len(reservations) == 1
    assert reservations.last() == 1001


@pytest.mark.parametrize("seed", range(3))
async def test_all_who_obey_retry_after_get_through_at_the_second_attempt(seed: int) -> None:
    """60 requests with reservations beside a crowd of 20 that asks all the time, on 4 permits."""
    chance = random.Random(seed)
    admission = Admission(permits=4, running=2)
    admission.retry_after.timed(0.01)
    over = asyncio.Event()
    crowd_served = 0

    async def work(arrival: Arrival) -> None:
        async with admission.permit(arrival) as permit:
            await permit.turn()
            await asyncio.sleep(chance.uniform(0.001, 0.01))
            permit.done()

    async def obedient(key: str) -> int:
        for attempt in range(1, 4):
            try:
                await work(admission.arrival("same address", key))
            except ProblemError as error:
                await asyncio.sleep((error.retry_after_s or 60) * chance.uniform(1.0, 1.25))
            else:
                return attempt
        raise AssertionError("starved")

    async def crowd() -> None:
        nonlocal crowd_served
        while not over.is_set():
            try:
                await work(admission.arrival("same address"))
                crowd_served += 1
            except ProblemError:
                await asyncio.sleep(0.002)

    asking = [asyncio.create_task(crowd()) for _ in range(20)]
    await asyncio.sleep(0.02)
    attempts = await asyncio.gather(*(obedient(str(i)) for i in range(60)))
    over.set()
    await asyncio.gather(*asking)
    assert max(attempts) == 2
    assert crowd_served > 0
    assert admission.permits.held == 0


@pytest.mark.slow
@pytest.mark.parametrize("route", ["certify", "predict", "stream"])
async def test_the_sdk_with_its_defaults_gets_a_permit_when_it_comes_back(
    make_http: Callable[[Settings], httpx2.AsyncClient], backend: Any, digit: bytes, until: Any, route: str
) -> None:
    http = make_http(Settings(max_concurrent_requests=1, max_client_batch_size=1))
    admission = http._transport.app.state.gateway.admission
    admission.retry_after.timed(0.2)
    backend.gate.clear()
    sdk = AsyncClient("http://testserver", transport=http._transport)

    async def ask() -> object:
        if route == "stream":
            async with sdk.certify_stream(digit, n=1000) as stream:
                return await stream.result()
        return await (sdk.certify if route == "certify" else sdk.predict)(digit, n=1000)

    async with sdk:
        first = asyncio.create_task(ask())
        await until(lambda: backend.running == 1)
        second = asyncio.create_task(ask())
        await until(lambda: admission.waiting == 1)  # refused, told to come back, and waiting for a permit now
        third = asyncio.create_task(ask())
        await until(lambda: len(admission.retry_after.reservations) == 1)
        backend.gate.set()
        answers = await asyncio.gather(first, second, third)
    assert len({answer.id for answer in answers}) == 3


async def test_a_deadline_counts_while_waiting_for_a_permit(
    make_http: Callable[[Settings], httpx2.AsyncClient], backend: Any, digit: bytes, until: Any
) -> None:
    http = make_http(Settings(max_concurrent_requests=1, max_client_batch_size=1))
    admission = http._transport.app.state.gateway.admission
    admission.retry_after.timed(0.01)
    backend.gate.clear()
    form: dict[str, Any] = {"files": {"image": ("d.png", digit)}, "headers": {"Idempotency-Key": "k"}}
    first = asyncio.create_task(http.post("/v1/certify", files={"image": ("d.png", digit)}))
    await until(lambda: backend.running == 1)
    refused = await http.post("/v1/certify", **form)
    assert refused.status_code == 429
    await asyncio.sleep(refused.json()["retry_after_s"])
    late = await http.post("/v1/certify", data={"params": '{"deadline_ms": 50}'}, **form)
    assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
    assert admission.waiting == 0
    backend.gate.set()
    assert (await first).status_code == 200


@pytest.mark.parametrize("path", ["certify", "certify/stream", "predict"])
async def test_a_key_that_cannot_be_kept_is_refused(http: httpx2.AsyncClient, digit: bytes, path: str) -> None:
    answer = await http.post(f"/v1/{path}", files={"image": ("d.png", digit)}, headers={"Idempotency-Key": "k" * 256})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


def test_a_request_that_came_early_and_is_refused_at_its_time_gets_a_new_time() -> None:
    reservations = Reservations(most=10)
    assert reservations.reserve("a", "k", now=0, earliest=1, gap=1) == 1
    assert not reservations.use("a", "k", 0.5)  # too early, and then its body took a while
    assert reservations.reserve("a", "k", now=2, earliest=3, gap=1) == 3
    assert len(reservations) == 1
    assert reservations.use("a", "k", 3)
    assert reservations.last() == 0
