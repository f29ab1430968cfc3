"""At the door: so many requests run, so many wait their turn, and the next one is told when to come back.

Waiting requests are taken in turn from caller to caller, so that one who sends a hundred delays another by
one, not by a hundred. When every place is taken, a caller who holds fewer places than the greediest takes the
place of the greediest caller's latest waiting request; everyone else gets 429 at once, with a time. Who comes
back then, under the same `Idempotency-Key`, is not sent away again: they wait at the door for the next place,
before everyone who comes for the first time, so that no crowd can starve those who do as they are told.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic, perf_counter

from .problems import ProblemError
from .reservations import Tickets

FIRST_GUESS_S = 1.0
"""How long a request takes, as long as none has been timed."""

MOST_BACKLOGS = 8
"""Nobody without a ticket is told to stay away longer than it takes to do the present work so many times."""

TICKETS_A_PLACE = 16
"""So many requests for each place may be told to come back and be let in."""

MEMORY = 0.1
"""Weight of the latest request in the mean time: the last ten or so count."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A request that asks to be let in.

    Attributes:
        caller: who sent it.
        key: its `Idempotency-Key`, by which it is known when it comes back.
        returned: it was refused before, and came back at the time it was told.
    """

    caller: str
    key: str | None = None
    returned: bool = False


def _future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


@dataclass(eq=False)
class _Waiter:
    place: "Place"
    turn: asyncio.Future[None] = field(default_factory=_future)


@dataclass(eq=False)
class _Knock:
    """One at the door. When it is opened, the place is theirs."""

    caller: str
    opened: asyncio.Future[None] = field(default_factory=_future)


class Admission:
    """Places for requests.

    Args:
        places: requests taken in at the same time, running or waiting.
        running: of these, how many are worked on.
        per_caller: places that one caller may hold; None for all of them.
    """

    def __init__(self, places: int, running: int, per_caller: int | None = None) -> None:
        self.places = places
        self.most_running = min(running, places)
        self.per_caller = per_caller
        self.running = 0
        self.mean_s = FIRST_GUESS_S
        self._timed = False
        self._last_promise = 0.0
        self.running_since: dict[Place, float] = {}
        self._held: Counter[str] = Counter()
        self._queues: OrderedDict[str, deque[_Waiter]] = OrderedDict()
        self._door: deque[_Knock] = deque()
        self._tickets = Tickets(TICKETS_A_PLACE * places)

    @property
    def waiting(self) -> int:
        """Requests whose turn has not come, inside and at the door."""
        return sum(map(len, self._queues.values())) + len(self._door)

    @property
    def taken(self) -> int:
        """Places taken: by requests that run, that wait, and that do not ask for their turn yet."""
        return self._held.total()

    def visit(self, caller: str, key: str | None = None) -> Visit:
        """The visit of a request that just came; it knows whether it was told to come now."""
        returned = key is not None and self._tickets.redeem(caller, key, monotonic())
        return Visit(caller, key, returned)

    def refuse_early(self, visit: Visit) -> None:
        """Refuse a request for which there is no place, before anything is spent on it.

        Raises:
            ProblemError: 429.
        """
        if not visit.returned and self._refused(visit.caller):
            raise self._refusal(visit)

    @asynccontextmanager
    async def place(self, visit: Visit) -> AsyncGenerator["Place"]:
        """A place for one request; `await place.turn()` before the work.

        Raises:
            ProblemError: 429, there is none.
        """
        if not self._find_place(visit.caller):
            if not visit.returned:
                raise self._refusal(visit)
            await self._wait_at_the_door(visit.caller)
        place = Place(self, visit)
        try:
            yield place
        finally:
            place.leave()
            self.give_up(place)

    def retry_after_s(self) -> float:
        """When there will be room for one more, at the mean time that a request took lately.

        That is when the work that is here now is done, and that of those who were told to come back before:
        each is told another time, so that they do not come back all at once and most of them in vain.
        """
        now = monotonic()
        all_done_s = self._all_done_s()
        behind = max(self._last_promise, self._tickets.last_due())
        promised = max(now + all_done_s, behind + self._gap_s())
        self._last_promise = min(promised, now + MOST_BACKLOGS * all_done_s)
        return self._last_promise - now

    def _each_s(self) -> float:
        """How long a request takes: the mean cannot know yet that requests have become slow."""
        oldest = next(iter(self.running_since.values()), None)
        return max(self.mean_s, 0.0 if oldest is None else perf_counter() - oldest)

    def _gap_s(self) -> float:
        """From one request's end to the next one's, while so many run at a time."""
        return self.mean_s / self.most_running

    def _all_done_s(self) -> float:
        """How long the work takes that is here now."""
        return self._each_s() * max(1.0, (self.taken + len(self._door)) / self.most_running)

    def _at_limit(self, caller: str) -> bool:
        return self.per_caller is not None and self._held[caller] >= self.per_caller

    def _refused(self, caller: str) -> bool:
        full = self.taken >= self.places
        return self._at_limit(caller) or (full and self._displaced_for(caller) is None)

    def _find_place(self, caller: str) -> bool:
        """Take a place for this caller, if there is one or they have a better claim to it than another."""
        if self._refused(caller):
            return False
        displaced = self._displaced_for(caller) if self.taken >= self.places else None
        if displaced is not None:
            self._remove(displaced)
            self._free(displaced.place)  # at once, so that its place is free for who displaced it
            displaced.turn.set_exception(self._refusal(displaced.place.visit))
        self._held[caller] += 1
        return True

    def _displaced_for(self, caller: str) -> _Waiter | None:
        """Who has to go if this caller comes and all is full."""
        greediest = max(self._queues, key=self._held.__getitem__, default=None)
        if greediest is None or self._held[greediest] <= self._held[caller] + 1:
            return None
        # A waiter whose caller has just hung up is still in line until its task runs, and leaves by itself.
        there = (
            waiter
            for waiter in reversed(self._queues[greediest])
            if not waiter.turn.done() and not waiter.place.visit.returned
        )
        return next(there, None)

    async def _wait_at_the_door(self, caller: str) -> None:
        knock = _Knock(caller)
        self._door.append(knock)
        try:
            await knock.opened
        except asyncio.CancelledError:
            if knock.opened.cancelled():
                self._door.remove(knock)
            else:
                self._leave(caller)  # the door was opened in the same moment
                self._open_door()
            raise

    def _open_door(self) -> None:
        """Let in whom there is room for, in the order in which they came."""
        for knock in [each for each in self._door if not each.opened.done()]:
            if self.taken >= self.places:
                return
            if not self._at_limit(knock.caller):
                self._door.remove(knock)
                self._held[knock.caller] += 1
                knock.opened.set_result(None)

    def give_up(self, place: "Place") -> None:
        """Free a place, once, for who stands at the door."""
        if self._free(place):
            self._open_door()

    def _free(self, place: "Place") -> bool:
        if held := place.held:
            place.held = False
            self._leave(place.visit.caller)
        return held

    def _leave(self, caller: str) -> None:
        self._held[caller] -= 1
        if not self._held[caller]:
            del self._held[caller]

    async def run(self, place: "Place") -> None:
        """Return once a request may run; it then counts as running until `pass_on`."""
        if self.running < self.most_running:
            self.running += 1
            return
        waiter = _Waiter(place)
        self._queues.setdefault(place.visit.caller, deque()).append(waiter)
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.cancelled():
                self._remove(waiter)
            elif waiter.turn.exception() is None:
                self.pass_on()  # the turn came in the same moment as the cancellation
            raise

    def timed(self, seconds: float) -> None:
        """Count a finished request in the mean time."""
        self.mean_s = MEMORY * seconds + (1 - MEMORY) * self.mean_s if self._timed else seconds
        self._timed = True

    def pass_on(self) -> None:
        """Give a running request's place to the next in turn."""
        while self._queues:
            caller, queue = next(iter(self._queues.items()))
            waiter = queue.popleft()
            if queue:
                self._queues.move_to_end(caller)
            else:
                del self._queues[caller]
            if not waiter.turn.done():
                waiter.turn.set_result(None)
                return
        self.running -= 1

    def _remove(self, waiter: _Waiter) -> None:
        caller = waiter.place.visit.caller
        queue = self._queues.get(caller)
        if queue and waiter in queue:
            queue.remove(waiter)
            if not queue:
                del self._queues[caller]

    def _refusal(self, visit: Visit) -> ProblemError:
        """A 429 with the time to come back; where the request has a key, with a promise to be let in then."""
        if visit.key is None:
            seconds = self.retry_after_s()
        else:
            now = monotonic()
            due = self._tickets.issue(visit.caller, visit.key, now, now + self._all_done_s(), self._gap_s())
            seconds = due - now
        when = f"in about {max(1, round(seconds))} s"
        if self._at_limit(visit.caller):
            sentence = (
                f"You have {self.per_caller} requests here already, the most allowed; wait for one to finish, "
                f"or try again {when}."
            )
        else:
            sentence = f"All {self.places} places are taken; try again {when}."
        return ProblemError("overloaded", sentence, retry_after_s=seconds)


class Place:
    """One request's place: first waiting, then running."""

    def __init__(self, admission: Admission, visit: Visit) -> None:
        self._admission = admission
        self.visit = visit
        self.held = True
        self._taken_at = perf_counter()

    async def turn(self) -> float:
        """Wait until the request may run, and return the seconds that took.

        Raises:
            ProblemError: 429, another caller had a better claim to the place.
        """
        await self._admission.run(self)
        now = self._admission.running_since[self] = perf_counter()
        return now - self._taken_at

    def done(self) -> None:
        """The request was answered: its time counts in the estimate that refused callers are given."""
        self._admission.timed(perf_counter() - self._admission.running_since[self])

    def leave(self) -> None:
        """Let the next in turn run."""
        if self._admission.running_since.pop(self, None) is not None:
            self._admission.pass_on()
