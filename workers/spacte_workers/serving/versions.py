"""Which version of each model the samplers hold: loaded, replaced without dropping a request, withdrawn, forgotten."""

import asyncio
import logging
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

from spacte_client.types import Precision
from spacte_workers.certification.certificates import ModelIdentity
from spacte_workers.engine.precision_rule import PrecisionRule
from spacte_workers.errors import ModelLoadError, NotOneFunctionError
from spacte_workers.load_steps import LoadStep

from .model_sources import ModelSource
from .model_store import ModelStore
from .pools import PLAIN, ModelFiles, Pool
from .served_model import ServedModel, model_key
from .traffic import divide, stand_beside

_log = logging.getLogger(__name__)


class Versions:
    """Loads models on all samplers, and has them forget what nobody uses. Lives on one event loop.

    Args:
        store: the models by name.
        pool: the samplers.
        precision, rule: arithmetic of the votes, and what samplers may choose for `auto`.
        expect: told the rate and the batch of a version that was loaded, by its key.
        forget: told the key of a version that was unloaded.
    """

    def __init__(
        self,
        store: ModelStore,
        pool: Pool,
        precision: Precision | Literal["auto"],
        rule: PrecisionRule,
        *,
        expect: Callable[[str, float, int], None],
        forget: Callable[[str], None],
    ) -> None:
        self._store = store
        self._pool = pool
        pool.on_model_lost = self.lost
        self._precision: Precision | Literal["auto"] = precision
        self._rule = rule
        self._expect = expect
        self._forget = forget
        self._changing = asyncio.Lock()
        self._leaving: list[ServedModel] = []
        self._retiring: set[asyncio.Task[None]] = set()

    async def load_all(self, names: Sequence[str]) -> None:
        """Load one model after the other; one that fails is logged, and the others are served."""
        for name in names:
            try:
                await self.load(name)
            except ModelLoadError as error:
                _log.warning("Model %s is not served: %s", name, error)
            except Exception:  # noqa: BLE001  the other models are to be served
                _log.exception("Model %s is not served.", name)

    async def load(self, name: str, share: float | None = None, source: str | None = None) -> None:
        """Load a model or replace it, see `Runtime.load`."""
        if source is not None:
            await asyncio.to_thread(self._store.fetch, name, ModelSource.parse(source))
        entry = await asyncio.to_thread(self._store.refresh, name)
        if entry.version is not None and not entry.reason and not entry.answers_by(entry.version):
            self._store.loading(name, entry.version, LoadStep("waiting", "waits for the loads before it"))
        async with self._changing:
            before = await self._replace(name, share)
        await self._retire_all(before)

    async def divide(self, name: str, weights: Mapping[str, float]) -> None:
        """Divide a model's requests among its versions, see `Runtime.divide`."""
        async with self._changing:
            gone = divide(self._store.entry(name), weights)
        await self._retire_all([gone])

    async def unload(self, name: str) -> None:
        """Stop serving a model; requests that run on it are answered first.

        Raises:
            ModelNotFoundError: no model has that name.
        """
        async with self._changing:
            before = [self._store.alone(name), self._store.unloaded(name)]
        await self._retire_all(before)

    async def reference(self, model: ServedModel) -> ModelIdentity:
        """The plain float32 network of a version in use; loaded on all samplers when it is first asked for.

        Loads, swaps and withdrawals of models do not wait for it.

        Raises:
            ModelLoadError: the folder holds another version by now.
            NoWorkersError: there is no sampler to load it.
        """
        async with model.loading_reference:
            if model.reference is None:
                folder = self._store.entry(model.name).folder
                files = ModelFiles(model.reference_key, folder, model.version, "fp32", kernels=PLAIN)
                report = await self._pool.load(files)
                model.reference = replace(model.identity, precision=report.precision, kernels=report.kernels)
            return model.reference

    @contextmanager
    def withdrawn_if_faulty(self, model: ServedModel) -> Generator[None]:
        """Where noises that are drawn again get other logits, stop serving the model, so that nobody asks once more.

        Whether that happens hangs on the noise, and to ask again until it does not would be a choice among noises.
        """
        try:
            yield
        except NotOneFunctionError as error:
            self._withdraw(model, str(error))
            raise

    def lost(self, key: str, reason: str) -> None:
        """Stop serving a version that new samplers could not load again, as where its files were replaced."""
        for model in self._store.all_served():
            if model.key == key:
                self._withdraw(model, f"Version {model.version[:12]} could not be loaded again: {reason}")
            elif model.reference_key == key:
                model.reference = None

    def _withdraw(self, model: ServedModel, reason: str) -> None:
        _log.error("Version %s of model %s is not served any more: %s", model.version[:12], model.name, reason)
        if self._store.withdrawn(model, reason):
            retiring = asyncio.get_running_loop().create_task(self._retire(model))
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)

    async def _replace(self, name: str, share: float | None) -> list[ServedModel | None]:
        """Point a name, or a share of its requests, at what its folder holds now; returns who answered before."""
        entry = await asyncio.to_thread(self._store.refresh, name)
        if entry.config is None or entry.version is None or entry.reason:
            raise ModelLoadError(entry.reason)
        if entry.config.sigma == 0:
            reason = f"Model {name} was trained without noise: train one with a sigma above 0."
            self._store.failed(name, reason)
            raise ModelLoadError(reason)
        if entry.answers_by(entry.version):
            entry.loaded()
            return [self._store.alone(name)] if share is None else []
        if entry.beside is not None and entry.beside.version == entry.version:
            entry.loaded()
            entry.share = entry.share if share is None else share
            return [entry.promote()] if share is None else []
        files = ModelFiles(model_key(name, entry.version), entry.folder, entry.version, self._precision, self._rule)
        config, version = entry.config, entry.version

        def tell(step: LoadStep) -> None:
            if step != entry.step:  # samplers are asked every second
                _log.info("Model %s is loading: %s.", name, step)
            self._store.loading(name, version, step)

        tell(LoadStep("samplers", "waits for a sampler"))
        began = time.monotonic()
        try:
            report = await self._pool.load(files, tell)
        except Exception as error:
            self._store.failed(name, str(error))
            raise
        seconds = time.monotonic() - began
        _log.info("Model %s is loaded after %.1f s: %.0f noises a second by each sampler.", name, seconds, report.rate)
        self._expect(files.key, report.rate, report.batch)
        served = ServedModel(name, version, config, report.precision, report.kernels)
        if share is not None and entry.served is not None:
            entry.loaded()
            entry.reason = ""
            return [stand_beside(entry, served, share)]
        return [self._store.ready(name, served), self._store.alone(name)]

    async def _retire_all(self, models: Iterable[ServedModel | None]) -> None:
        """Retire versions, each when its own last request is answered."""
        await asyncio.gather(*(self._retire(model) for model in models if model is not None))

    async def _retire(self, model: ServedModel) -> None:
        """Have the samplers forget a version once its last request is answered; others are loaded meanwhile.

        By then the same version may be served again, or be retired a second time while requests still use it.
        """
        self._leaving.append(model)
        try:
            await model.unused()
        finally:
            self._leaving.remove(model)
        async with self._changing:
            needed = [*self._store.all_served(), *self._leaving]
            if model.key not in [other.key for other in needed]:
                await self._pool.unload(model.key)
                self._forget(model.key)
                if model.reference is not None:
                    await self._pool.unload(model.reference_key)
                    model.reference = None
