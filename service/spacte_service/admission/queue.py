"""Turns to run: a bounded number at a time, and waiting callers in rotation.

A caller who sends a hundred requests delays another one's by one, not by a hundred. Long requests run a few at a time,
as many as keep the samplers busy, so that those of others wait for few of them; short ones run beside them.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

SHORT_S = 0.25
"""A request of less is short: only `limit` bounds how many run. Chosen: a caller does not notice it."""
LONG_TOGETHER_S = 2.0
"""Long requests run beside others as long as all of them together take less. Chosen: dozens of calls to samplers."""
LEAST_LONG = 2
"""So many long requests run whatever they take. Chosen: one fills the samplers at the end of the other."""


@dataclass(eq=False)
class Turn(Generic[T]):
    """A request that waits for its turn; `future` is done when it comes."""

    caller: str
    holder: T
    seconds: float
    future: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class FairQueue(Generic[T]):
    """Requests that run, at most `limit` at a time, and those that wait to."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._running: list[float] = []
        self._waiting: OrderedDict[str, deque[Turn[T]]] = OrderedDict()

    @property
    def running(self) -> int:
        """Requests that run."""
        return len(self._running)

    def __len__(self) -> int:
        """Requests that wait."""
        return sum(map(len, self._waiting.values()))

    def callers(self) -> Iterable[str]:
        """Callers of waiting requests, the next in turn first."""
        return self._waiting

    def of(self, caller: str) -> Sequence[Turn[T]]:
        """The waiting requests of a caller, the oldest first."""
        return self._waiting[caller]

    async def wait(self, caller: str, holder: T, seconds: float = 0.0) -> None:
        """Return once a request of so many seconds may run; it then counts as running until `release`."""
        if self._may_run(seconds):
            self._running.append(seconds)
            return
        turn = Turn(caller, holder, seconds)
        self._waiting.setdefault(caller, deque()).append(turn)
        try:
            await turn.future
        except asyncio.CancelledError:
            if turn.future.cancelled():
                self.remove(turn)
            elif turn.future.exception() is None:
                self.release(seconds)  # the turn came in the same moment as the cancellation
            raise

    def release(self, seconds: float = 0.0) -> None:
        """A request of so many seconds has run: the next in turn may, and each one that there is room for now."""
        self._running.remove(seconds)
        while (turn := self._next()) is not None:
            self._waiting.move_to_end(turn.caller)
            self.remove(turn)
            self._running.append(turn.seconds)
            turn.future.set_result(None)

    def _may_run(self, seconds: float) -> bool:
        if len(self._running) >= self.limit:
            return False
        long = [each for each in self._running if each >= SHORT_S]
        return seconds < SHORT_S or len(long) < LEAST_LONG or sum(long) + seconds <= LONG_TOGETHER_S

    def _next(self) -> Turn[T] | None:
        """The first turn, in rotation, that may run now: of each caller the oldest."""
        firsts = (next((turn for turn in turns if not turn.future.done()), None) for turns in self._waiting.values())
        return next((turn for turn in firsts if turn is not None and self._may_run(turn.seconds)), None)

    def remove(self, turn: Turn[T]) -> None:
        """Take a waiting request out of the queue, if it is there."""
        turns = self._waiting.get(turn.caller)
        if turns and turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[turn.caller]
