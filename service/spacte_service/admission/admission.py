"""Permits for requests: a bounded number is taken in, and the next one is refused with a `Retry-After`.

A request is refused as well where the samplers could not answer it in time, at their measured rate and with what is
here already (`work.py`).

When every permit is held, or the samplers have too much to do, a caller who holds fewer than the greediest caller gets
the permit of that caller's latest waiting request; everyone else is refused at once. A refused request with an
`Idempotency-Key` gets a reservation: when it comes back at the time that it was told, it waits for the next free
permit, before every request without a reservation. So callers who obey `Retry-After` get through beside any crowd.
"""

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter

from spacte_service.problems import ProblemError

from .permits import PermitCounts
from .queue import FairQueue, Turn
from .retry_after import RetryAfter
from .work import Demand, Work


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that asks for a permit."""

    caller: str
    key: str | None = None  # its `Idempotency-Key`, by which it is known when it comes back
    reserved: bool = False  # it was refused before, and came back at the time that it was told


@dataclass(eq=False)
class _Returned:
    """A request with a reservation that waits for a permit; once `granted` is set, it holds one."""

    arrival: Arrival
    demand: Demand
    granted: asyncio.Future[None]


class Admission:
    """Permits for requests, and turns to run for those that hold one.

    Args:
        permits: requests taken in at the same time, running or waiting.
        running: of these, how many are worked on.
        per_caller: permits that one caller may hold; None for all of them.
        within_s: the time in which a request without a deadline is to be answered, see `Work`.
    """

    def __init__(self, permits: int, running: int, per_caller: int | None = None, within_s: float = math.inf) -> None:
        self.permits = PermitCounts(permits, per_caller)
        self.queue: FairQueue[Permit] = FairQueue(min(running, permits))
        self.retry_after = RetryAfter(permits, self.queue.limit)
        self.work = Work(within_s)
        self._returned: deque[_Returned] = deque()

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn or, with a reservation, for a permit."""
        return len(self.queue) + len(self._returned)

    def arrival(self, caller: str, key: str | None = None) -> Arrival:
        """A request that just came; a reservation for this time is used up."""
        return Arrival(caller, key, self.retry_after.use_reservation(caller, key))

    def refuse_early(self, arrival: Arrival) -> None:
        """Refuse a request for which there is no permit, before anything is spent on it. Raises ProblemError: 429."""
        if not arrival.reserved and self._is_refused(arrival.caller):
            raise self._refusal(arrival)

    @asynccontextmanager
    async def permit(self, arrival: Arrival, demand: Demand = Demand()) -> AsyncGenerator["Permit"]:
        """A permit for one request; `await permit.turn()` before the work.

        Raises ProblemError: 429, there is none, or the samplers could not do in time what it demands.
        """
        if not self._is_refused(arrival.caller) and self._has_room(arrival, demand):
            self._take(arrival.caller, demand)
        elif arrival.reserved:
            await self._wait_for_permit(arrival, demand)
        else:
            raise self._refusal(arrival, demand)
        permit = Permit(self, arrival, demand)
        self.work.add(permit, demand)
        try:
            yield permit
        finally:
            self.work.remove(permit)
            if self.retry_after.end(permit):
                self.queue.release(demand.seconds)
            if permit.held:
                self._release(arrival.caller)

    def _is_refused(self, caller: str) -> bool:
        if self.permits.at_limit(caller):
            return True
        return self.permits.all_held and self._displaceable_for(caller) is None

    def _has_room(self, arrival: Arrival, demand: Demand) -> bool:
        """Whether a request can be answered in time, and no other one waits for that room."""
        if not demand.together_s:
            return True
        if self._before():
            return False
        room_in_s = self.work.room_in_s(demand, spare=not arrival.reserved and self.retry_after.promised())
        if not room_in_s:
            return True
        caller = arrival.caller
        turn = self._displaceable_for(caller)
        return turn is not None and self.work.pace * turn.seconds >= room_in_s

    def _before(self) -> float:
        """Seconds of those that wait for room, with a reservation, and come before all others."""
        waiting = (each for each in self._returned if not each.granted.done())
        free = (each.demand.seconds for each in waiting if not self.permits.at_limit(each.arrival.caller))
        return self.work.pace * sum(free)

    def _take(self, caller: str, demand: Demand) -> None:
        """Take a permit: a free one, or the one that `caller` has a better claim to than its holder."""
        scarce = self.permits.all_held or self.work.room_in_s(demand) > 0
        if scarce and (turn := self._displaceable_for(caller)):
            self.queue.remove(turn)
            self.work.remove(turn.holder)
            turn.holder.held = False
            self.permits.release(turn.caller)
            turn.future.set_exception(self._refusal(turn.holder.arrival, turn.holder.demand))
        self.permits.take(caller)

    def _displaceable_for(self, caller: str) -> Turn["Permit"] | None:
        """The latest waiting request of the caller with the most permits, if that is two more than `caller` holds."""
        greediest = max(self.queue.callers(), key=self.permits.of, default=None)
        if greediest is None or self.permits.of(greediest) <= self.permits.of(caller) + 1:
            return None
        # A cancelled waiter stays in the queue until its task runs, and leaves by itself.
        latest = reversed(self.queue.of(greediest))
        return next((turn for turn in latest if not turn.future.done() and not turn.holder.arrival.reserved), None)

    async def _wait_for_permit(self, arrival: Arrival, demand: Demand) -> None:
        waiter = _Returned(arrival, demand, asyncio.get_running_loop().create_future())
        self._returned.append(waiter)
        try:
            await waiter.granted
            self.work.remove(waiter)
        except asyncio.CancelledError:
            if waiter.granted.cancelled():
                self._returned.remove(waiter)
            else:
                self.work.remove(waiter)
                self._release(arrival.caller)  # the permit was granted in the same moment
            raise

    def _release(self, caller: str) -> None:
        """Give a permit back, for the requests that wait for one, in the order in which they came."""
        self.permits.release(caller)
        for waiter in [each for each in self._returned if not each.granted.done()]:
            if self.permits.all_held or self.work.room_in_s(waiter.demand):
                return
            if not self.permits.at_limit(waiter.arrival.caller):
                self._returned.remove(waiter)
                self.permits.take(waiter.arrival.caller)
                self.work.add(waiter, waiter.demand)
                waiter.granted.set_result(None)

    def _refusal(self, arrival: Arrival, demand: Demand = Demand()) -> ProblemError:
        """The 429 with the time to come back."""
        if demand.together_s and not self.permits.all_held and not self.permits.at_limit(arrival.caller):
            return self._too_much_work(arrival, demand)
        requests = self.permits.held + len(self._returned)
        seconds = self.retry_after.seconds(arrival.caller, arrival.key, requests)
        when = f"in about {max(1, round(seconds))} s"
        sentence = f"All {self.permits.total} places are taken; try again {when}."
        if self.permits.at_limit(arrival.caller):
            sentence = (
                f"You have {self.permits.per_caller} requests here already, the most allowed; wait for one to finish, "
                f"or try again {when}."
            )
        return ProblemError("overloaded", sentence, retry_after_s=seconds)

    def _too_much_work(self, arrival: Arrival, demand: Demand) -> ProblemError:
        """The 429 where the samplers have too much to do for an answer in time."""
        each_s = self.work.pace * demand.together_s
        room_in_s = self.work.room_in_s(demand) + self._before()
        seconds = self.retry_after.seconds_until_room(arrival.caller, arrival.key, room_in_s, each_s)
        sentence = (
            f"The samplers are busy for {self.work.ahead_s(demand):.0f} s before this request, which takes about "
            f"{each_s:.1f} s; try again in about {max(1, round(seconds))} s, or ask for fewer noises."
        )
        return ProblemError("overloaded", sentence, retry_after_s=seconds)


@dataclass(eq=False)
class Permit:
    """One request's permit: first the request waits, then it runs."""

    _admission: Admission
    arrival: Arrival
    demand: Demand
    held: bool = True  # until another caller's request gets this permit
    _taken_at: float = field(default_factory=perf_counter)

    async def turn(self) -> float:
        """Wait until the request may run, and return the seconds that took.

        Raises ProblemError: 429, another caller had a better claim to the permit.
        """
        await self._admission.queue.wait(self.arrival.caller, self, self.demand.seconds)
        return self._admission.retry_after.begin(self) - self._taken_at

    def done(self) -> None:
        """The request was answered: its time counts in the estimate that refused callers are given."""
        self._admission.retry_after.answered(self)
        self._admission.work.answered(self)
