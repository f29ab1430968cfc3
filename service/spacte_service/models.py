"""The models that are served; loading and unloading them while requests are answered."""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

import structlog

from spacte_client.types import Model
from spacte_workers.errors import RuntimeFault
from spacte_workers.serving.traffic import LEAST_PREFIX

from .backend import Backend
from .problems import ProblemError

log = structlog.stdlib.get_logger("spacte.models")

PROMPT_S = 1.0  # later failures show in the model's `state`; chosen: a missing folder is seen in milliseconds


class Models:
    """The backend's models, and changes under way."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._changes: set[asyncio.Task[RuntimeFault | None]] = set()

    def all(self) -> list[Model]:
        """Every model known, loaded or not, each with its rate."""
        return [
            model.model_copy(update={"samples_per_second": self._backend.rate(model.name)[1] or None})
            for model in self._backend.models()
        ]

    def get(self, name: str) -> Model:
        """The model of that name, loaded or not. Raises ProblemError: 404."""
        models = {model.name: model for model in self.all()}
        if name not in models:
            there = ", ".join(models) or "none"
            sentence = f"There is no model {name[:64]!r}; choose one of those served ({there})."
            raise ProblemError("model_not_found", sentence)
        return models[name]

    def version(self, name: str, digits: str) -> str:
        """The version that answers for a model and begins with these digits. Raises ProblemError: 404."""
        model = self.get(name)
        loaded = [share.version for share in model.traffic] or [model.version]
        found = [version for version in loaded if len(digits) >= LEAST_PREFIX and version.startswith(digits)]
        if len(found) != 1:
            there = ", ".join(version[:12] for version in loaded)
            sentence = (
                f"Model {name} has no version {digits[:64]!r} that answers; name one of these ({there}), or none."
            )
            raise ProblemError("model_not_found", sentence)
        return found[0]

    def only(self) -> str:
        """The name of the model that answers where none is named; empty where several could."""
        ready = [model.name for model in self._backend.models() if model.answers]
        return ready[0] if len(ready) == 1 else ""

    async def load(self, name: str, share: float | None = None, source: str | None = None) -> None:
        """Begin to load a model, or to replace it, or a share of its requests, by what its folder or a source holds.

        Raises ModelNotFoundError, ModelLoadError, NoWorkersError: it failed at once.
        """
        await self._begin(self._backend.load(name, share, source), "load", name)

    async def unload(self, name: str) -> None:
        """Begin to unload a model: it takes no more requests, and is dropped when the last is answered.

        Raises ModelNotFoundError: there is none of that name.
        """
        await self._begin(self._backend.unload(name), "unload", name)

    async def divide(self, name: str, weights: Mapping[str, float]) -> None:
        """Divide a model's requests among its versions; one that is not named goes when its last is answered.

        Raises ModelNotFoundError, BadParameterError: there is no such model or version.
        """
        await self._begin(self._backend.divide(name, weights), "traffic", name)

    async def stop(self) -> None:
        """Give up changes under way."""
        for task in self._changes:
            task.cancel()
        await asyncio.gather(*self._changes, return_exceptions=True)

    async def _begin(self, work: Coroutine[Any, Any, None], change: str, name: str) -> None:
        task = asyncio.create_task(_logged(work, change, name))
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        await asyncio.wait({task}, timeout=PROMPT_S)
        if task.done() and (error := task.result()):
            raise error


async def _logged(work: Coroutine[Any, Any, None], change: str, name: str) -> RuntimeFault | None:
    """Why a change failed, if it did."""
    try:
        await work
    except RuntimeFault as error:
        log.warning("model not changed", change=change, model=name, reason=str(error))
        return error
    log.info("model changed", change=change, model=name)
    return None
