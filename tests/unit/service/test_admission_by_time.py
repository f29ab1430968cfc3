"""Promise: only what can be answered in time is taken in, and everyone else is told the time when it can be.

Time is simulated: the event loop's clock jumps to the next timer, so a minute of a slow model takes no time.
"""

import asyncio
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest

from spacte_service.admission import Admission, Arrival, Demand, Permit
from spacte_service.admission.work import Work
from spacte_service.problems import ProblemError


class JumpingClock:
    """A selector that waits for nobody: its time goes on by as much as it was to wait."""

    def __init__(self, selector: Any) -> None:
        self.now = 0.0
        self._selector = selector

    def __getattr__(self, name: str) -> Any:
        return getattr(self._selector, name)

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("every task waits for another one")
        self.now += max(0.0, timeout)
        return self._selector.select(0)


Simulate = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch) -> Simulate:
    """Runs a coroutine in simulated time."""

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        loop = asyncio.SelectorEventLoop()
        clock = JumpingClock(getattr(loop, "_selector"))  # noqa: B009  a private attribute
        monkeypatch.setattr(loop, "_selector", clock)
        monkeypatch.setattr(loop, "time", lambda: clock.now)
        for name in (
            "work.perf_counter",
            "retry_after.perf_counter",
            "retry_after.monotonic",
            "admission.perf_counter",
        ):
            monkeypatch.setattr(f"spacte_service.admission.{name}", lambda: clock.now)
        try:
            return loop.run_until_complete(main)
        finally:
            loop.close()

    return run


@dataclass
class Crowd:
    """Callers that ask again and again, and wait as long as they are told."""

    admission: Admission
    each_s: float
    demand: Demand
    keys: bool = False
    answers: list[float] = field(default_factory=list)
    refusals: int = 0
    waits: list[tuple[float, float]] = field(default_factory=list)  # told at first, and until it was taken in
    samplers: asyncio.Lock = field(default_factory=asyncio.Lock)
    numbers: Any = field(default_factory=count)

    async def stay(self, callers: int, seconds: float) -> None:
        tasks = [asyncio.create_task(self._caller(str(number))) for number in range(callers)]
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _caller(self, name: str) -> None:
        time = asyncio.get_running_loop().time
        while True:
            key, refused_at, told_s = f"{next(self.numbers)}" if self.keys else None, 0.0, 0.0
            while True:
                asked_at = time()
                try:
                    await self._ask(self.admission.arrival(name if self.keys else "address", key))
                except ProblemError as refused:
                    self.refusals += 1
                    pause_s = max(1, math.ceil(refused.retry_after_s or math.nan))  # whole seconds, as over HTTP
                    refused_at, told_s = (refused_at, told_s) if told_s else (asked_at, pause_s)
                    await asyncio.sleep(pause_s + 0.01)
                    continue
                self.answers.append(time() - asked_at)
                if told_s:
                    self.waits.append((told_s, asked_at - refused_at))
                break

    async def _ask(self, arrival: Arrival) -> None:
        async with self.admission.permit(arrival, self.demand) as permit:
            await permit.turn()
            async with self.samplers:
                await asyncio.sleep(self.each_s)
            permit.done()


@pytest.mark.parametrize("keys", [False, True])
@pytest.mark.parametrize(("each_s", "guess"), [(4.6, 1.0), (17.3, 1.0), (0.6, 1.0), (4.6, 0.8), (4.6, 1.25)])
def test_a_crowd_before_a_slow_model(simulate: Simulate, each_s: float, guess: float, keys: bool) -> None:
    """50 callers for four minutes, whose samplers are as fast as was guessed, half as fast and twice as fast."""
    seconds = 240.0
    demand = Demand("m", guess * each_s, guess * each_s)

    async def main() -> Crowd:
        crowd = Crowd(Admission(128, 32, within_s=30.0), each_s, demand, keys)
        await crowd.stay(50, seconds)
        return crowd

    crowd = simulate(main())
    assert len(crowd.answers) >= 0.9 * (seconds / each_s - 1)
    assert max(crowd.answers) <= max(30.0, 3 * each_s) * (1.1 if guess == 1.0 else 2.0)
    assert crowd.refusals > 10
    assert len(crowd.waits) >= 5
    honest = [waited <= 2.0 * told for told, waited in crowd.waits]  # and nobody comes before the time
    assert sum(honest) >= 0.9 * len(honest), crowd.waits
    assert crowd.admission.permits.held == crowd.admission.queue.running == 0
    assert crowd.admission.work.total_s() == 0.0


async def taken(admission: Admission, demand: Demand, caller: str = "a") -> Permit:
    """A request that stays."""
    return await admission.permit(Arrival(caller), demand).__aenter__()


async def test_a_request_is_refused_where_its_answer_would_come_too_late() -> None:
    admission = Admission(128, 32, within_s=30.0)
    four = Demand("m", 4.0, 4.0)
    for _ in range(7):
        await taken(admission, four)
    with pytest.raises(ProblemError) as refused:
        await taken(admission, four)
    assert refused.value.code == "overloaded"
    assert refused.value.retry_after_s == pytest.approx(2.0, abs=0.1)  # 28 s are here, and it may wait 26 s
    assert "busy for 28 s" in str(refused.value.detail)
    assert "takes about 4.0 s" in str(refused.value.detail)


@pytest.mark.parametrize(
    ("demand", "is_taken"),
    [
        (Demand("m", 4.0, 4.0, first_s=0.5, deadline_s=30.0), True),
        (Demand("m", 4.0, 4.0, first_s=0.5, deadline_s=5.0), False),
        (Demand("m", 100.0, 100.0), True),  # waits no longer than it takes
        (Demand("m", 1.0, 1.0), True),  # shorter ones go first
        (Demand("other", 4.0, 4.0), True),  # models take turns
        (Demand("m", 4.0, 0.0), True),  # comes with an image that was taken in
        (Demand(), True),  # nothing is known of it
        (Demand("m", 4.0, 4.0), False),
    ],
)
async def test_what_is_in_time_depends_on_the_request(demand: Demand, is_taken: bool) -> None:
    admission = Admission(128, 32, within_s=30.0)
    for _ in range(7):
        await taken(admission, Demand("m", 4.0, 4.0))
    if is_taken:
        await taken(admission, demand)
    else:
        with pytest.raises(ProblemError):
            await taken(admission, demand)


async def test_a_caller_with_nothing_here_gets_the_place_of_the_greediest_ones_latest() -> None:
    admission = Admission(128, 32, within_s=30.0)
    tasks = []

    async def stay(caller: str) -> None:
        async with admission.permit(Arrival(caller), Demand("m", 4.0, 4.0)) as permit:
            await permit.turn()
            await asyncio.Event().wait()

    for caller in "aaaaaaab":
        tasks.append(asyncio.create_task(stay(caller)))
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [task.done() for task in tasks] == [False] * 6 + [True, False]
    assert isinstance(tasks[6].exception(), ProblemError)
    assert admission.queue.running == 2  # long ones run two at a time
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert admission.permits.held == admission.queue.running == 0


async def test_short_requests_run_beside_long_ones() -> None:
    admission = Admission(128, 4)
    permits = [await taken(admission, Demand("m", seconds, seconds)) for seconds in (9.0, 9.0, 9.0, 0.1, 0.1, 0.1)]
    turns = [asyncio.ensure_future(permit.turn()) for permit in permits]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [turn.done() for turn in turns] == [True, True, False, True, True, False]
    for turn in turns:
        turn.cancel()
    await asyncio.gather(*turns, return_exceptions=True)


def test_a_request_with_a_deadline_leaves_the_pace_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("spacte_service.admission.work.perf_counter", lambda: now)
    work = Work(30.0)
    work.add("slow", Demand("m", 0.1, 0.1, first_s=0.1, deadline_s=8.0))
    now = 8.0
    work.answered("slow")
    work.add("next", Demand("m", 2.0, 2.0))
    now = 10.0
    work.answered("next")
    assert work.pace == 1.0


def test_the_pace_is_what_passes_for_each_second_of_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("spacte_service.admission.work.perf_counter", lambda: now)
    work, demand = Work(30.0), Demand("m", 2.0, 2.0)
    assert work.pace == 1.0
    for number in range(20):
        work.add(number, demand)
        work.add(number + 1, demand)
        now += 3.0
        work.answered(number)
    assert work.pace == pytest.approx(1.5)
    assert work.ahead_s(demand) == pytest.approx(3.0)
    now += 1.0
    assert work.ahead_s(demand) == pytest.approx(2.0)  # a third of it is done
    now += 100.0
    assert work.ahead_s(demand) == 0.0  # overdue
