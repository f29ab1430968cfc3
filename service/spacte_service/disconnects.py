"""Work ends when its client disconnects, which frees the samplers."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from .drain import TAKEOVER_S
from .problems import ProblemError

T = TypeVar("T")


class ClientDisconnectedError(Exception):
    """The client closed the connection before the answer."""


class RequestTasks:
    """The work of requests as tasks, which can be cancelled one by one or all together."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def cancel_all(self) -> None:
        """End all work; its callers get 503."""
        for task in self._tasks:
            task.cancel()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin work that `cancel_all` ends; `await end(task)` afterwards."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        return task

    async def end(self, task: asyncio.Task[Any]) -> None:
        """Forget the work, and cancel it where it is not done."""
        self._tasks.discard(task)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def run(self, request: Request, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, unless the client disconnects first. The request's body must have been read.

        Raises:
            ClientDisconnectedError: the client disconnected; the work is cancelled.
            ProblemError: 503, the work was cancelled by a shutdown.
        """
        task = self.start(work)
        disconnect = asyncio.create_task(_disconnected(request))
        try:
            await asyncio.wait({task, disconnect}, return_when=asyncio.FIRST_COMPLETED)
            if task.cancelled():
                raise shut_down()
            if not task.done():
                raise ClientDisconnectedError
            return task.result()
        finally:
            disconnect.cancel()
            await self.end(task)


def shut_down() -> ProblemError:
    """The 503 of work that a shutdown cancelled."""
    sentence = "The service is shutting down and could not finish this; try again in a moment."
    return ProblemError("draining", sentence, retry_after_s=TAKEOVER_S)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
