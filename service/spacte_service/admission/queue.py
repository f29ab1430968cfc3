"""Turns to run: a bounded number at a time, and waiting callers in rotation.

A caller who sends a hundred requests delays another one's by one, not by a hundred.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(eq=False)
class Turn(Generic[T]):
    """A request that waits for its turn; `future` is done when it comes."""

    caller: str
    holder: T
    future: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class FairQueue(Generic[T]):
    """Requests that run, at most `limit` at a time, and those that wait to."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running = 0
        self._waiting: OrderedDict[str, deque[Turn[T]]] = OrderedDict()

    def __len__(self) -> int:
        """Requests that wait."""
        return sum(map(len, self._waiting.values()))

    def callers(self) -> Iterable[str]:
        """Callers of waiting requests, the next in turn first."""
        return self._waiting

    def of(self, caller: str) -> Sequence[Turn[T]]:
        """The waiting requests of a caller, the oldest first."""
        return self._waiting[caller]

    async def wait(self, caller: str, holder: T) -> None:
        """Return once a request may run; it then counts as running until `release`."""
        if self.running < self.limit:
            self.running += 1
            return
        turn = Turn(caller, holder)
        self._waiting.setdefault(caller, deque()).append(turn)
        try:
            await turn.future
        except asyncio.CancelledError:
            if turn.future.cancelled():
                self.remove(turn)
            elif turn.future.exception() is None:
                self.release()  # the turn came in the same moment as the cancellation
            raise

    def release(self) -> None:
        """A request has run: the next in turn may."""
        while self._waiting:
            caller, turns = next(iter(self._waiting.items()))
            turn = turns.popleft()
            self._waiting.move_to_end(caller)
            if not turns:
                del self._waiting[caller]
            if not turn.future.done():
                turn.future.set_result(None)
                return
        self.running -= 1

    def remove(self, turn: Turn[T]) -> None:
        """Take a waiting request out of the queue, if it is there."""
        turns = self._waiting.get(turn.caller)
        if turns and turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[turn.caller]
