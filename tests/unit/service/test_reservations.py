"""Promise: who was refused and comes back at the time that was named is not sent away again, whatever the crowd."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from spacte_client import AsyncClient
from spacte_service import Settings
from spacte_service.admission import Admission, Place, Visit
from spacte_service.problems import ProblemError
from spacte_service.reservations import PATIENCE_S, Tickets


class Clock:
    """The time of `Admission`, turned by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("spacte_service.admission.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def refused(admission: Admission, visit: Visit) -> float:
    """Seconds until it may come back."""
    with pytest.raises(ProblemError) as caught:
        await admission.place(visit).__aenter__()
    assert caught.value.code == "overloaded"
    assert caught.value.retry_after_s is not None
    return caught.value.retry_after_s


async def test_who_comes_back_in_time_waits_and_goes_before_newcomers(clock: Clock) -> None:
    admission = Admission(places=1, running=1)
    admission.timed(2.0)
    inside = admission.place(Visit("a"))
    await inside.__aenter__()
    seconds = await refused(admission, admission.visit("b", "key"))
    assert seconds == pytest.approx(2.0)
    clock.now += seconds
    back = admission.visit("b", "key")
    assert back.returned
    admission.refuse_early(back)
    coming: asyncio.Task[Place] = asyncio.create_task(admission.place(back).__aenter__())
    await asyncio.sleep(0)
    assert admission.waiting == 1
    await inside.__aexit__(None, None, None)
    with pytest.raises(ProblemError):  # the place that has just become free is taken
        admission.refuse_early(admission.visit("c", "first time"))
    assert (await coming).visit == back
    assert admission.taken == 1


async def test_who_comes_too_early_keeps_the_ticket_and_the_time(clock: Clock) -> None:
    admission = Admission(places=1, running=1)
    admission.timed(4.0)
    async with admission.place(Visit("a")):
        assert await refused(admission, admission.visit("b", "k")) == pytest.approx(4.0)
        clock.now += 1.0
        early = admission.visit("b", "k")
        assert not early.returned
        assert await refused(admission, early) == pytest.approx(3.0)
        clock.now += 3.0
        assert admission.visit("b", "k").returned
        assert not admission.visit("b", "k").returned  # a ticket is good once


async def test_who_comes_much_too_late_is_a_newcomer(clock: Clock) -> None:
    admission = Admission(places=1, running=1)
    async with admission.place(Visit("a")):
        seconds = await refused(admission, admission.visit("b", "k"))
        clock.now += 1.5 * seconds + PATIENCE_S + 0.1
        assert not admission.visit("b", "k").returned


async def test_a_key_belongs_to_its_caller(clock: Clock) -> None:
    admission = Admission(places=1, running=1)
    async with admission.place(Visit("a")):
        clock.now += await refused(admission, admission.visit("b", "k"))
        assert not admission.visit("c", "k").returned
        assert admission.visit("b", "k").returned


async def test_each_is_told_a_time_of_their_own(clock: Clock) -> None:
    admission = Admission(places=4, running=2)
    admission.timed(1.0)
    places = [admission.place(Visit("a")) for _ in range(4)]
    for place in places:
        await place.__aenter__()
    times = [await refused(admission, admission.visit("b", str(i))) for i in range(10)]
    assert times == pytest.approx([2.0 + 0.5 * i for i in range(10)])


async def test_who_leaves_the_door_leaves_no_gap() -> None:
    admission = Admission(places=1, running=1)
    inside = admission.place(Visit("a"))
    await inside.__aenter__()
    first = asyncio.create_task(admission.place(Visit("b", "1", returned=True)).__aenter__())
    second = asyncio.create_task(admission.place(Visit("b", "2", returned=True)).__aenter__())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert admission.waiting == 1
    await inside.__aexit__(None, None, None)
    assert (await second).held


async def test_a_door_opened_to_one_who_just_left_is_opened_to_the_next() -> None:
    admission = Admission(places=1, running=1)
    inside = admission.place(Visit("a"))
    await inside.__aenter__()
    waiting = [asyncio.create_task(admission.place(Visit("b", key, returned=True)).__aenter__()) for key in "12"]
    await asyncio.sleep(0)
    await inside.__aexit__(None, None, None)  # the first one's place now, which does not know it yet
    waiting[0].cancel()
    await asyncio.gather(waiting[0], return_exceptions=True)
    assert (await waiting[1]).visit.key == "2"
    assert admission.taken == 1


async def test_one_at_the_limit_of_places_lets_others_at_the_door_pass() -> None:
    admission = Admission(places=2, running=2, per_caller=1)
    a, b = admission.place(Visit("a")), admission.place(Visit("b"))
    await a.__aenter__()
    await b.__aenter__()
    greedy = asyncio.create_task(admission.place(Visit("a", "2", returned=True)).__aenter__())
    other = asyncio.create_task(admission.place(Visit("c", "1", returned=True)).__aenter__())
    await asyncio.sleep(0)
    await b.__aexit__(None, None, None)
    assert (await other).visit.caller == "c"
    assert not greedy.done()
    await a.__aexit__(None, None, None)
    assert (await greedy).visit.caller == "a"


async def test_one_who_came_back_is_not_displaced() -> None:
    admission = Admission(places=3, running=1)
    places = [admission.place(Visit("a", str(i), returned=True)) for i in range(3)]
    inside = [await place.__aenter__() for place in places]
    turns = [asyncio.create_task(place.turn()) for place in inside]
    await asyncio.sleep(0)
    assert await refused(admission, Visit("b")) > 0
    for place, turn in zip(places, turns, strict=True):
        await turn
        await place.__aexit__(None, None, None)


def test_tickets_are_few_and_go_first_to_those_who_have_fewer() -> None:
    tickets = Tickets(most=3)
    for key in "123":
        tickets.issue("greedy", key, now=0, earliest=1, gap=1)
    assert tickets.issue("greedy", "4", now=0, earliest=1, gap=1) == 4  # a time, and no ticket
    assert len(tickets) == 3
    due = tickets.issue("other", "1", now=0, earliest=1, gap=1)
    assert len(tickets) == 3
    assert not tickets.redeem("greedy", "3", due)  # the latest of the one who has most made room
    assert tickets.redeem("other", "1", due)
    assert tickets.redeem("greedy", "2", due)
    assert not tickets.redeem("greedy", "4", due + 1)


def test_tickets_that_nobody_came_for_are_forgotten() -> None:
    tickets = Tickets(most=100)
    for i in range(50):
        tickets.issue("a", str(i), now=0, earliest=1, gap=0)
    tickets.issue("a", "late", now=1000, earliest=1001, gap=0)
    assert len(tickets) == 1
    assert tickets.last_due() == 1001


@pytest.mark.parametrize("seed", range(3))
async def test_all_who_do_as_they_are_told_get_in_at_the_second_attempt(seed: int) -> None:
    """60 requests with tickets beside a crowd of 20 that knocks all the time, on 4 places."""
    chance = random.Random(seed)
    admission = Admission(places=4, running=2)
    admission.timed(0.01)
    over = asyncio.Event()
    crowd_served = 0

    async def work(visit: Visit) -> None:
        async with admission.place(visit) as place:
            await place.turn()
            await asyncio.sleep(chance.uniform(0.001, 0.01))
            place.done()

    async def obedient(key: str) -> int:
        for attempt in range(1, 4):
            try:
                await work(admission.visit("same address", key))
            except ProblemError as error:
                await asyncio.sleep((error.retry_after_s or 60) * chance.uniform(1.0, 1.25))
            else:
                return attempt
        raise AssertionError("starved")

    async def crowd() -> None:
        nonlocal crowd_served
        while not over.is_set():
            try:
                await work(admission.visit("same address"))
                crowd_served += 1
            except ProblemError:
                await asyncio.sleep(0.002)

    knocking = [asyncio.create_task(crowd()) for _ in range(20)]
    await asyncio.sleep(0.02)
    attempts = await asyncio.gather(*(obedient(str(i)) for i in range(60)))
    over.set()
    await asyncio.gather(*knocking)
    assert max(attempts) == 2
    assert crowd_served > 0
    assert admission.taken == 0


@pytest.mark.parametrize("route", ["certify", "predict", "stream"])
async def test_the_sdk_with_its_defaults_is_let_in_when_it_comes_back(
    make_http: Callable[[Settings], httpx2.AsyncClient], backend: Any, digit: bytes, until: Any, route: str
) -> None:
    http = make_http(Settings(max_concurrent_requests=1, max_client_batch_size=1))
    admission = http._transport.app.state.gateway.admission
    admission.timed(0.2)
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
        await until(lambda: admission.waiting == 1)  # refused, told to come back, and at the door now
        third = asyncio.create_task(ask())
        await until(lambda: len(admission._tickets) == 1)
        backend.gate.set()
        answers = await asyncio.gather(first, second, third)
    assert len({answer.id for answer in answers}) == 3


async def test_a_deadline_counts_at_the_door(
    make_http: Callable[[Settings], httpx2.AsyncClient], backend: Any, digit: bytes, until: Any
) -> None:
    http = make_http(Settings(max_concurrent_requests=1, max_client_batch_size=1))
    admission = http._transport.app.state.gateway.admission
    admission.timed(0.01)
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


def test_who_came_early_and_is_refused_when_the_time_has_come_gets_a_new_time() -> None:
    tickets = Tickets(most=10)
    assert tickets.issue("a", "k", now=0, earliest=1, gap=1) == 1
    assert not tickets.redeem("a", "k", 0.5)  # too early, and then its body took a while
    assert tickets.issue("a", "k", now=2, earliest=3, gap=1) == 3
    assert len(tickets) == 1
    assert tickets.redeem("a", "k", 3)
    assert tickets.last_due() == 0
