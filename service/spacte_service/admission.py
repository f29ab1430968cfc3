"""At the door: so many requests run, so many wait their turn, and the next one is told when to come back.

Waiting requests are taken in turn from caller to caller, so that one who sends a hundred delays another by
one, not by a hundred. When every place is taken, a caller who holds fewer places than the greediest takes the
place of the greediest caller's latest waiting request; everyone else gets 429 at once.
"""

import asyncio
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from .problems import ProblemError

FIRST_GUESS_S = 1.0
"""How long a request takes, as long as none has been timed."""

MOST_BACKLOGS = 8
"""Nobody is told to stay away longer than it takes to do the present work so many times."""

MEMORY = 0.1
"""Weight of the latest request in the mean time: the last ten or so count."""


@dataclass(eq=False)
class _Waiter:
    place: "Place"
    turn: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


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

    @property
    def waiting(self) -> int:
        """Requests whose turn has not come."""
        return sum(map(len, self._queues.values()))

    @property
    def taken(self) -> int:
        """Places taken: by requests that run, that wait, and that do not ask for their turn yet."""
        return self._held.total()

    def retry_after_s(self) -> float:
        """When there will be room for one more, at the mean time that a request took lately.

        That is when the work that is here now is done, and that of those who were told to come back before:
        each is told another time, so that they do not come back all at once and most of them in vain.
        """
        now = time.monotonic()
        each_s = max(self.mean_s, self._longest_running_s())
        all_done_s = each_s * max(1.0, self.taken / self.most_running)
        promised = max(now + all_done_s, self._last_promise + each_s / self.most_running)
        self._last_promise = min(promised, now + MOST_BACKLOGS * all_done_s)
        return self._last_promise - now

    @asynccontextmanager
    async def place(self, caller: str) -> AsyncGenerator["Place"]:
        """A place for one request; `await place.turn()` before the work.

        Raises:
            ProblemError: 429, there is none.
        """
        self._find_place(caller)
        self._held[caller] += 1
        place = Place(self, caller)
        try:
            yield place
        finally:
            place.leave()
            self.give_up(place)

    def refuse_early(self, caller: str) -> None:
        """Refuse a caller for whom there is no place, before anything is spent on the request.

        Raises:
            ProblemError: 429.
        """
        self._displaced_for(caller)

    def _longest_running_s(self) -> float:
        """How long the oldest request runs by now: the mean cannot know yet that requests have become slow."""
        oldest = next(iter(self.running_since.values()), None)
        return 0.0 if oldest is None else time.perf_counter() - oldest

    def _find_place(self, caller: str) -> None:
        displaced = self._displaced_for(caller)
        if displaced is not None:
            self._remove(displaced)
            self.give_up(displaced.place)  # at once, so that its place is free for who displaced it
            displaced.turn.set_exception(self._full())

    def _displaced_for(self, caller: str) -> _Waiter | None:
        """Who has to go if this caller comes; None where there is room."""
        if self.per_caller is not None and self._held[caller] >= self.per_caller:
            sentence = (
                f"You have {self.per_caller} requests here already, the most allowed; wait for one to finish."
            )
            raise ProblemError("overloaded", sentence, retry_after_s=self.mean_s)
        if self.taken < self.places:
            return None
        greediest = max(self._queues, key=self._held.__getitem__, default=None)
        if greediest is None or self._held[greediest] <= self._held[caller] + 1:
            raise self._full()
        # A waiter whose caller has just hung up is still in line until its task runs, and leaves by itself.
        there = (waiter for waiter in reversed(self._queues[greediest]) if not waiter.turn.done())
        displaced = next(there, None)
        if displaced is None:
            raise self._full()
        return displaced

    def give_up(self, place: "Place") -> None:
        """Free a place, once."""
        if place.held:
            place.held = False
            self._held[place.caller] -= 1
            if not self._held[place.caller]:
                del self._held[place.caller]

    async def run(self, place: "Place") -> None:
        """Return once a request may run; it then counts as running until `pass_on`."""
        if self.running < self.most_running:
            self.running += 1
            return
        waiter = _Waiter(place)
        self._queues.setdefault(place.caller, deque()).append(waiter)
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

    def _remove(self, waiter: _Waiter) -> _Waiter:
        queue = self._queues.get(waiter.place.caller)
        if queue and waiter in queue:
            queue.remove(waiter)
            if not queue:
                del self._queues[waiter.place.caller]
        return waiter

    def _full(self) -> ProblemError:
        seconds = self.retry_after_s()
        sentence = f"All {self.places} places are taken; try again in about {max(1, round(seconds))} s."
        return ProblemError("overloaded", sentence, retry_after_s=seconds)


class Place:
    """One request's place: first waiting, then running."""

    def __init__(self, admission: Admission, caller: str) -> None:
        self._admission = admission
        self.caller = caller
        self.held = True
        self._taken_at = time.perf_counter()

    async def turn(self) -> float:
        """Wait until the request may run, and return the seconds that took.

        Raises:
            ProblemError: 429, another caller had a better claim to the place.
        """
        await self._admission.run(self)
        now = self._admission.running_since[self] = time.perf_counter()
        return now - self._taken_at

    def done(self) -> None:
        """The request was answered: its time counts in the estimate that refused callers are given."""
        self._admission.timed(time.perf_counter() - self._admission.running_since[self])

    def leave(self) -> None:
        """Let the next in turn run."""
        if self._admission.running_since.pop(self, None) is not None:
            self._admission.pass_on()
