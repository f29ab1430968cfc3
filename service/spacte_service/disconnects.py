"""Work is done as long as its caller is there: whoever hangs up frees the samplers."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from .problems import ProblemError

T = TypeVar("T")


class CallerGoneError(Exception):
    """The caller closed the connection before the answer."""


class Presence:
    """Runs the work of requests, ends it when the caller goes, and can end all of it."""

    def __init__(self) -> None:
        self._works: set[asyncio.Task[Any]] = set()

    def abandon(self) -> None:
        """End all work; its callers get 503."""
        for work in self._works:
            work.cancel()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin work that `abandon` ends; whoever starts it awaits `end` afterwards."""
        task = asyncio.create_task(work)
        self._works.add(task)
        return task

    async def end(self, task: asyncio.Task[Any]) -> None:
        """Forget the work, ending it where it is not done."""
        self._works.discard(task)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def run(self, request: Request, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, unless the caller goes first. The request's body must have been read.

        Raises:
            CallerGoneError: the caller went; the work is cancelled.
            ProblemError: 503, the work was abandoned.
        """
        task = self.start(work)
        watch = asyncio.create_task(_gone(request))
        try:
            await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
            if task.cancelled():
                raise abandoned()
            if not task.done():
                raise CallerGoneError
            return task.result()
        finally:
            watch.cancel()
            await self.end(task)


def abandoned() -> ProblemError:
    """What the caller of abandoned work is told."""
    sentence = "The service is shutting down and could not finish this; try again in a moment."
    return ProblemError("draining", sentence, retry_after_s=5.0)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
