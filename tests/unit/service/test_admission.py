"""Promise: a bounded number runs and waits, callers in turn; the rest is told at once when to come back."""

import asyncio
from typing import Any

import numpy as np
import pytest

from spacte_service.admission import Admission, Visit
from spacte_service.problems import ProblemError


class Requests:
    """Requests at one door, begun and finished by hand."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.running: list[str] = []
        self.visits: dict[str, Visit] = {}
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[float]] = {}

    async def come(self, *names: str) -> None:
        """Each name is a caller and a number, such as `a1`."""
        for name in names:
            self._ends[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._stay(name))
            await asyncio.sleep(0)

    async def finish(self, name: str) -> float:
        self._ends[name].set()
        return await self._tasks[name]

    async def go_away(self, name: str) -> None:
        self._tasks[name].cancel()
        await asyncio.gather(self._tasks[name], return_exceptions=True)

    async def refusal(self, name: str) -> ProblemError:
        with pytest.raises(ProblemError) as caught:
            await self._tasks[name]
        return caught.value

    async def _stay(self, name: str) -> float:
        async with self.admission.place(self.visits.get(name) or Visit(name[0])) as place:
            waited = await place.turn()
            self.running.append(name)
            try:
                await self._ends[name].wait()
            finally:
                self.running.remove(name)
            place.done()
        return waited


@pytest.fixture
def door() -> Any:
    return lambda **limits: Requests(Admission(**limits))


async def test_so_many_run_so_many_wait_and_the_next_is_refused(door: Any) -> None:
    requests = door(places=4, running=2)
    await requests.come("a1", "b1", "c1", "d1", "e1")
    assert requests.running == ["a1", "b1"]
    assert (requests.admission.running, requests.admission.waiting) == (2, 2)
    refused = await requests.refusal("e1")
    assert (refused.status_code, refused.code) == (429, "overloaded")
    assert refused.retry_after_s is not None
    await requests.finish("b1")
    await asyncio.sleep(0)
    assert requests.running == ["a1", "c1"]
    for name in ("a1", "c1"):
        await requests.finish(name)
    await requests.finish("d1")
    assert requests.admission.taken == 0


async def test_a_place_counts_before_its_turn_is_asked_for() -> None:
    admission = Admission(places=2, running=1)
    async with admission.place(Visit("a")), admission.place(Visit("b")):
        assert admission.taken == 2
        with pytest.raises(ProblemError):
            await admission.place(Visit("c")).__aenter__()
    assert admission.taken == 0


async def test_callers_take_turns_however_many_one_sends(door: Any) -> None:
    requests = door(places=100, running=1)
    await requests.come("a1", "a2", "a3", "a4", "b1", "c1", "b2")
    order = []
    for _ in range(7):
        order.append(requests.running[0])
        await requests.finish(requests.running[0])
        await asyncio.sleep(0)
    assert order == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]


async def test_when_all_is_full_the_greediest_makes_room_for_another(door: Any) -> None:
    requests = door(places=4, running=1)
    await requests.come("a1", "a2", "a3", "a4", "b1")
    assert (await requests.refusal("a4")).code == "overloaded"
    await requests.come("a5")
    assert (await requests.refusal("a5")).code == "overloaded"
    await requests.finish("a1")
    await asyncio.sleep(0)
    await requests.finish("a2")
    await asyncio.sleep(0)
    assert requests.running == ["b1"]
    await requests.finish("b1")
    await requests.finish("a3")


async def test_one_who_just_hung_up_is_not_displaced_as_well(door: Any) -> None:
    requests = door(places=4, running=1)
    await requests.come("a1", "a2", "a3", "a4")
    requests._tasks["a4"].cancel()  # its task has not run since, so it is still in line
    async with requests.admission.place(Visit("b")):
        assert (await requests.refusal("a3")).code == "overloaded"
        assert requests._tasks["a4"].cancelled()
    for name in ("a1", "a2"):
        await requests.finish(name)
    assert requests.admission.taken == 0


async def test_what_runs_is_never_displaced(door: Any) -> None:
    requests = door(places=2, running=2)
    await requests.come("a1", "a2", "b1")
    assert (await requests.refusal("b1")).code == "overloaded"
    assert requests.running == ["a1", "a2"]
    await requests.finish("a1")
    await requests.finish("a2")


async def test_a_caller_has_no_more_places_than_allowed(door: Any) -> None:
    requests = door(places=10, running=1, per_caller=2)
    await requests.come("a1", "a2", "a3", "b1")
    refused = await requests.refusal("a3")
    assert "You have 2 requests here already" in refused.detail
    await requests.finish("a1")
    await requests.come("a4")
    for name in ("a2", "b1", "a4"):
        await requests.finish(name)


async def test_who_goes_away_leaves_no_gap(door: Any) -> None:
    requests = door(places=10, running=1)
    await requests.come("a1", "b1", "c1")
    await requests.go_away("b1")
    assert requests.admission.waiting == 1
    await requests.go_away("a1")
    await asyncio.sleep(0)
    assert requests.running == ["c1"]
    await requests.finish("c1")
    assert requests.admission.taken == 0


async def test_a_turn_given_to_one_who_just_left_is_passed_on(door: Any) -> None:
    requests = door(places=10, running=1)
    await requests.come("a1", "b1", "c1")
    requests._ends["a1"].set()
    for _ in range(20):
        await asyncio.sleep(0)
        if requests.admission.waiting == 1:
            break  # b1 has the turn, and has not noticed yet
    await requests.go_away("b1")
    await asyncio.sleep(0)
    assert requests.running == ["c1"]
    await requests.finish("c1")
    assert requests.admission.taken == 0


async def test_retry_after_is_the_work_that_is_here_at_the_time_it_took_lately(door: Any) -> None:
    requests = door(places=6, running=2)
    admission = requests.admission
    for _ in range(100):
        admission.timed(3.0)
    await requests.come("a1", "a2", "a3", "a4", "a5", "a6", "a7")
    refused = await requests.refusal("a7")
    assert refused.retry_after_s == pytest.approx(3.0 * 6 / 2)
    for name in ("a1", "a2", "a3", "a4", "a5", "a6"):
        await requests.finish(name)


async def test_those_who_are_refused_together_do_not_come_back_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spacte_service.admission.monotonic", lambda: 100.0)
    admission = Admission(places=4, running=2)
    admission.timed(1.0)
    times = [admission.retry_after_s() for _ in range(30)]
    assert times[0] == pytest.approx(1.0)
    steps = np.diff(times[:10])
    assert steps == pytest.approx([0.5] * 9)
    assert max(times) <= 8.0


async def test_a_slow_request_is_known_before_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("spacte_service.admission.perf_counter", lambda: now)
    admission = Admission(places=1, running=1)
    async with admission.place(Visit("a")) as place:
        await place.turn()
        now = 107.0
        assert admission.retry_after_s() == pytest.approx(7.0)
    assert admission.running_since == {}


async def test_the_mean_follows_what_was_timed() -> None:
    admission = Admission(1, 1)
    admission.timed(10.0)
    assert admission.mean_s == 10.0
    for _ in range(200):
        admission.timed(1.0)
    assert admission.mean_s == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("seed", range(5))
async def test_no_place_is_lost_or_made_up_in_a_storm(seed: int) -> None:
    import random

    chance = random.Random(seed)
    visits = [Visit(caller, returned=returned) for caller in "abc" for returned in (False, True)]
    admission = Admission(places=8, running=3, per_caller=6)
    most = 0

    async def request() -> str:
        nonlocal most
        try:
            async with admission.place(chance.choice(visits)) as place:
                await place.turn()
                most = max(most, admission.running)
                assert admission.taken <= 8
                await asyncio.sleep(chance.random() / 20)
                place.done()
        except ProblemError:
            return "refused"
        return "answered"

    tasks = []
    for _ in range(300):
        tasks.append(asyncio.create_task(request()))
        if chance.random() < 0.3:
            chance.choice(tasks).cancel()
        await asyncio.sleep(chance.random() / 5000)
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert {end for end in ends if isinstance(end, str)} == {"refused", "answered"}
    assert all(isinstance(end, (str, asyncio.CancelledError)) for end in ends)
    assert most == 3
    assert (admission.running, admission.waiting, dict(admission._held)) == (0, 0, {})
    assert not admission._door
