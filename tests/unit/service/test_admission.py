"""Promise: a bounded number runs and waits, callers in rotation; the rest is told at once when to come back."""

import asyncio
from typing import Any

import numpy as np
import pytest

from spacte_service.admission import Admission, Arrival
from spacte_service.problems import ProblemError


class Requests:
    """Requests of one admission, begun and finished by hand."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.running: list[str] = []
        self.arrivals: dict[str, Arrival] = {}
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
        async with self.admission.permit(self.arrivals.get(name) or Arrival(name[0])) as permit:
            waited = await permit.turn()
            self.running.append(name)
            try:
                await self._ends[name].wait()
            finally:
                self.running.remove(name)
            permit.done()
        return waited


@pytest.fixture
def requests_of() -> Any:
    return lambda **limits: Requests(Admission(**limits))


async def test_so_many_run_so_many_wait_and_the_next_is_refused(requests_of: Any) -> None:
    requests = requests_of(permits=4, running=2)
    await requests.come("a1", "b1", "c1", "d1", "e1")
    assert requests.running == ["a1", "b1"]
    assert (requests.admission.queue.running, requests.admission.waiting) == (2, 2)
    refused = await requests.refusal("e1")
    assert (refused.status_code, refused.code) == (429, "overloaded")
    assert refused.retry_after_s is not None
    await requests.finish("b1")
    await asyncio.sleep(0)
    assert requests.running == ["a1", "c1"]
    for name in ("a1", "c1"):
        await requests.finish(name)
    await requests.finish("d1")
    assert requests.admission.permits.held == 0


async def test_a_permit_counts_before_its_turn_is_asked_for() -> None:
    admission = Admission(permits=2, running=1)
    async with admission.permit(Arrival("a")), admission.permit(Arrival("b")):
        assert admission.permits.held == 2
        with pytest.raises(ProblemError):
            await admission.permit(Arrival("c")).__aenter__()
    assert admission.permits.held == 0


async def test_callers_take_turns_however_many_one_sends(requests_of: Any) -> None:
    requests = requests_of(permits=100, running=1)
    await requests.come("a1", "a2", "a3", "a4", "b1", "c1", "b2")
    order = []
    for _ in range(7):
        order.append(requests.running[0])
        await requests.finish(requests.running[0])
        await asyncio.sleep(0)
    assert order == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]


async def test_when_no_permit_is_free_the_greediest_caller_loses_one_to_another(requests_of: Any) -> None:
    requests = requests_of(permits=4, running=1)
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


async def test_a_cancelled_request_is_not_displaced_as_well(requests_of: Any) -> None:
    requests = requests_of(permits=4, running=1)
    await requests.come("a1", "a2", "a3", "a4")
    requests._tasks["a4"].cancel()  # its task has not run since, so it is still in line
    async with requests.admission.permit(Arrival("b")):
        assert (await requests.refusal("a3")).code == "overloaded"
        assert requests._tasks["a4"].cancelled()
    for name in ("a1", "a2"):
        await requests.finish(name)
    assert requests.admission.permits.held == 0


async def test_what_runs_is_never_displaced(requests_of: Any) -> None:
    requests = requests_of(permits=2, running=2)
    await requests.come("a1", "a2", "b1")
    assert (await requests.refusal("b1")).code == "overloaded"
    assert requests.running == ["a1", "a2"]
    await requests.finish("a1")
    await requests.finish("a2")


async def test_a_caller_has_no_more_permits_than_allowed(requests_of: Any) -> None:
    requests = requests_of(permits=10, running=1, per_caller=2)
    await requests.come("a1", "a2", "a3", "b1")
    refused = await requests.refusal("a3")
    assert "You have 2 requests here already" in refused.detail
    await requests.finish("a1")
    await requests.come("a4")
    for name in ("a2", "b1", "a4"):
        await requests.finish(name)


async def test_a_cancelled_request_leaves_no_gap(requests_of: Any) -> None:
    requests = requests_of(permits=10, running=1)
    await requests.come("a1", "b1", "c1")
    await requests.go_away("b1")
    assert requests.admission.waiting == 1
    await requests.go_away("a1")
    await asyncio.sleep(0)
    assert requests.running == ["c1"]
    await requests.finish("c1")
    assert requests.admission.permits.held == 0


async def test_a_turn_given_to_a_cancelled_request_goes_to_the_next(requests_of: Any) -> None:
    requests = requests_of(permits=10, running=1)
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
    assert requests.admission.permits.held == 0


async def test_retry_after_is_the_work_that_is_here_at_the_time_it_took_lately(requests_of: Any) -> None:
    requests = requests_of(permits=6, running=2)
    admission = requests.admission
    for _ in range(100):
        admission.retry_after.timed(3.0)
    await requests.come("a1", "a2", "a3", "a4", "a5", "a6", "a7")
    refused = await requests.refusal("a7")
    assert refused.retry_after_s == pytest.approx(3.0 * 6 / 2)
    for name in ("a1", "a2", "a3", "a4", "a5", "a6"):
        await requests.finish(name)


async def test_requests_refused_together_do_not_come_back_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spacte_service.admission.retry_after.monotonic", lambda: 100.0)
    admission = Admission(permits=4, running=2)
    admission.retry_after.timed(1.0)
    times = [admission.retry_after.seconds("a", None, admission.permits.held) for _ in range(30)]
    assert times[0] == pytest.approx(1.0)
    steps = np.diff(times[:10])
    assert steps == pytest.approx([0.5] * 9)
    assert max(times) <= 8.0


async def test_a_slow_request_is_known_before_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("spacte_service.admission.retry_after.perf_counter", lambda: now)
    admission = Admission(permits=1, running=1)
    async with admission.permit(Arrival("a")) as permit:
        await permit.turn()
        now = 107.0
        assert admission.retry_after.seconds("a", None, admission.permits.held) == pytest.approx(7.0)
    assert admission.retry_after.running_since == {}


async def test_the_mean_follows_what_was_timed() -> None:
    admission = Admission(1, 1)
    admission.retry_after.timed(10.0)
    assert admission.retry_after.mean_s == 10.0
    for _ in range(200):
        admission.retry_after.timed(1.0)
    assert admission.retry_after.mean_s == pytest.approx(1.0, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
async def test_no_permit_is_lost_or_made_up_under_load(seed: int) -> None:
    import random

    chance = random.Random(seed)
    arrivals = [Arrival(caller, reserved=reserved) for caller in "abc" for reserved in (False, True)]
    admission = Admission(permits=8, running=3, per_caller=6)
    most = 0

    async def request() -> str:
        nonlocal most
        try:
            async with admission.permit(chance.choice(arrivals)) as permit:
                await permit.turn()
                most = max(most, admission.queue.running)
                assert admission.permits.held <= 8
                await asyncio.sleep(chance.random() / 20)
                permit.done()
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
    assert (admission.queue.running, admission.waiting, dict(admission.permits._of)) == (0, 0, {})
    assert not admission._returned
