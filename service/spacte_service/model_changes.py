"""Loading and unloading of models while requests are answered: begun by a request, finished after it."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from spacte_workers.errors import RuntimeFault

from .backend import Backend

log = structlog.stdlib.get_logger("spacte.models")

PROMPT_S = 1.0
"""What fails within this time is told to whoever asked; what takes longer shows in the model's `state`."""


class ModelChanges:
    """Changes under way.

    Args:
        backend: where models are loaded.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._under_way: set[asyncio.Task[None]] = set()

    async def load(self, name: str) -> None:
        """Begin to load a model, or to replace it by what its folder holds now.

        Raises:
            ModelNotFoundError, ModelLoadError, NoWorkersError: it failed at once.
        """
        await self._begin(self._backend.load(name), "load", name)

    async def unload(self, name: str) -> None:
        """Begin to unload a model: it takes no more requests, and goes when the last is answered.

        Raises:
            ModelNotFoundError: there is none of that name.
        """
        await self._begin(self._backend.unload(name), "unload", name)

    async def stop(self) -> None:
        """Give up what is under way."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _begin(self, work: Coroutine[Any, Any, None], change: str, name: str) -> None:
        task = asyncio.create_task(self._logged(work, change, name))
        self._under_way.add(task)
        task.add_done_callback(self._done)
        await asyncio.wait({task}, timeout=PROMPT_S)
        if task.done():
            task.result()

    async def _logged(self, work: Coroutine[Any, Any, None], change: str, name: str) -> None:
        try:
            await work
        except RuntimeFault as fault:
            log.warning("model not changed", change=change, model=name, reason=str(fault))
            raise
        log.info("model changed", change=change, model=name)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # logged above; asking for it keeps asyncio from saying so again
