"""Samplers as a group: what the runtime asks of a pool, and the pool of threads of this process.

The pool on Ray is `spacte_workers.cluster.RayPool`; it keeps the same promises.
"""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from spacte_client.types import Precision
from spacte_core.allocator import keep_freed_memory
from spacte_core.collector import collecting_later
from spacte_workers.engine.precision_rule import PrecisionRule
from spacte_workers.errors import EndpointError, EndpointFaultError, ModelLoadError, NoWorkersError
from spacte_workers.load_steps import LoadStep, Tell, begin, nobody, telling
from spacte_workers.shards import Sampler, SamplerLostError, SampleTask, Votes, traces_of
from spacte_workers.tracing import drawing

if TYPE_CHECKING:
    from spacte_workers.engine import Engine


PLAIN = "plain"
"""Kernels of a network as PyTorch computes it."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What a sampler needs to load a model.

    Attributes:
        key: what the sampler calls it from then on.
        folder, version: the checkpoint, and the SHA-256 that its bytes must have.
        precision, batch, kernels: arithmetic, rows computed together and kernels of the votes; `auto` and None are the
            sampler's choice.
        rule: what the sampler may choose.
    """

    key: str
    folder: Path
    version: str
    precision: Precision | Literal["auto"] = "auto"
    rule: PrecisionRule = field(default_factory=PrecisionRule)
    batch: int | None = None
    kernels: str | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is loaded as it is, without a choice that speed is measured for."""
        return self.kernels == PLAIN

    def as_chosen(self, report: "LoadReport") -> "ModelFiles":
        """To be loaded as another sampler has loaded it.

        A certificate is about one function: all samplers vote in the same arithmetic, the same batches and with the
        same kernels, because others round differently.
        """
        return replace(self, precision=report.precision, batch=report.batch, kernels=report.kernels)


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a sampler says of a model that it has loaded and checked.

    Attributes:
        precision, batch, kernels: arithmetic, rows computed together and kernels of the votes.
        device: `cpu`, or the accelerator's name.
        rate: measured speed in noises a second.
    """

    precision: Precision
    device: str
    rate: float
    batch: int
    kernels: str


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """How many samplers are in which state, and what they run on."""

    ready: int
    starting: int
    lost: int
    device: str


class SamplerRegistry(Protocol):
    """Where a pool announces its samplers: the coordinator."""

    def add_sampler(self, sampler: Sampler, rate: float, batch: int = 1) -> None:
        """Hand shards to this sampler from now on; `rate` is a first guess in noises a second."""
        ...

    def remove_sampler(self, sampler_id: str) -> None:
        """Hand it no more; what it has in flight is drawn elsewhere."""
        ...


ModelLost = Callable[[str, str], None]
"""Told the key of a model that no sampler has any more, and why."""


def ignore_lost(key: str, reason: str) -> None:
    """Tell nobody."""


class Pool(Protocol):
    """A group of samplers that registers itself with a coordinator.

    Every sampler that is registered has every loaded model, so that any shard can go to any sampler.
    """

    on_model_lost: ModelLost
    """Called where samplers that were started anew could not load a model again, as when its files are gone."""

    async def start(self, registry: SamplerRegistry) -> None:
        """Bring the samplers up, and register each when it can draw. Returns when that is under way."""
        ...

    async def stop(self) -> None:
        """End all samplers."""
        ...

    async def load(self, model: ModelFiles, tell: Tell = nobody) -> LoadReport:
        """Load and check a model on every sampler, while other models go on being served.

        One after the other, because they measure speeds; only a plain network is loaded beside another model. `tell`
        is told on the event loop how far that is.

        Raises:
            ModelLoadError: the checkpoint does not work; no sampler keeps it.
            NoWorkersError: no sampler came up to load it.
        """
        ...

    async def unload(self, key: str) -> None:
        """Forget a model on every sampler."""
        ...

    def status(self) -> PoolStatus:
        """How many samplers there are now."""
        ...


def require_precision_here(precision: Precision | Literal["auto"]) -> None:
    """See that samplers of this process can vote in a precision, before any of them loads a model.

    Raises:
        ModelLoadError: they cannot.
    """
    from spacte_workers.engine import EngineError
    from spacte_workers.engine.engine import default_device
    from spacte_workers.engine.selection import require_precision

    try:
        require_precision(precision, default_device())
    except EngineError as error:
        raise ModelLoadError(str(error)) from error


def load_engine(model: ModelFiles, device: str | None = None) -> "tuple[Engine, LoadReport]":
    """Load a checkpoint into an engine, which checks itself.

    Raises:
        ModelLoadError: the checkpoint is broken, is another version, or does not run here.
    """
    with collecting_later():
        import torch

        from spacte_core.checkpoint import CheckpointError, load_checkpoint
        from spacte_core.errors import UserError
        from spacte_workers.engine import Engine

        begin("reading", "reads the checkpoint")
        try:
            checkpoint = load_checkpoint(model.folder)
        except CheckpointError as error:
            raise ModelLoadError(str(error)) from error
    if checkpoint.version != model.version:
        raise ModelLoadError("The checkpoint changed while it was being loaded: load it again.")
    try:
        engine = Engine.from_checkpoint(
            checkpoint,
            precision=model.precision,
            allow_int8=model.rule.allow_int8,
            min_agreement=model.rule.min_agreement,
            portable=model.rule.portable,
            batch=model.batch,
            kernels=model.kernels,
            device=device,
        )
    except (EndpointError, EndpointFaultError, UserError) as error:
        raise ModelLoadError(str(error)) from error
    except (RuntimeError, ValueError) as error:  # out of memory, an operation without a kernel, a failed check
        raise ModelLoadError(f"The model does not run on this sampler: {error}") from error
    name = torch.cuda.get_device_name(engine.device) if engine.device.type == "cuda" else engine.device.type
    return engine, LoadReport(engine.precision, name, engine.measured_rate, engine.batch, engine.kernels)


LOADS_AT_ONCE = 2
"""Of a sampler: a load that chooses and measures, and one of a plain network."""

LOADING = "spacte-loading"  # how the names of threads that load models begin


def is_loading() -> bool:
    """Whether a thread of this process still loads a model, perhaps for a pool that has been stopped."""
    return any(thread.name.startswith(LOADING) for thread in threading.enumerate())


class LoadGivenUpError(Exception):
    """The sampler was closed during a load."""


class LocalSampler:
    """An engine in threads of its own: one draws, two load. Torch releases the interpreter lock while it computes."""

    def __init__(self, sampler_id: str, device: str | None = None) -> None:
        self.id = sampler_id
        self._device = device
        self._engines: dict[str, Engine] = {}
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=sampler_id)
        self._loader = ThreadPoolExecutor(LOADS_AT_ONCE, thread_name_prefix=LOADING)

    async def load(self, model: ModelFiles, tell: Tell = nobody) -> LoadReport:
        """Load a model and check it; raises `ModelLoadError`, and `LoadGivenUpError` once it is closed."""
        loop = asyncio.get_running_loop()

        def step(begun: LoadStep) -> None:
            if self._closed:
                raise LoadGivenUpError
            loop.call_soon_threadsafe(tell, begun)

        def work() -> "tuple[Engine, LoadReport]":
            with telling(step):
                return load_engine(model, self._device)

        self._engines[model.key], report = await loop.run_in_executor(self._loader, work)
        return report

    def unload(self, key: str) -> None:
        """Forget a model."""
        self._engines.pop(key, None)

    async def sample_many(self, model: str, tasks: Sequence[SampleTask]) -> list[Votes]:
        """Draw the shards; raises `SamplerLostError` when the sampler has been closed or lacks the model."""
        try:
            engine = self._engines[model]
            drawn = asyncio.get_running_loop().run_in_executor(self._thread, self._draw, engine, model, tasks)
        except (KeyError, RuntimeError) as error:  # the executor says RuntimeError once it is shut down
            raise SamplerLostError(f"{self.id} is closed or has no {model}") from error
        return await drawn

    def _draw(self, engine: "Engine", model: str, tasks: Sequence[SampleTask]) -> list[Votes]:
        with drawing(self.id, model, sum(task.shard.size for task in tasks), traces_of(tasks)):
            return engine.votes_many([(task.image, task.shard) for task in tasks])

    def close(self) -> None:
        """Finish the shard being drawn, and take no more. A load ends with the step that it is at, which may take long:
        nothing waits for it.
        """
        self._closed = True
        self._loader.shutdown(wait=False, cancel_futures=True)
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._engines.clear()


class LocalPool:
    """Samplers that are threads of this process: by default one for each accelerator, else one that uses all cores."""

    def __init__(self, samplers: int | None = None) -> None:
        self._wanted = samplers
        self._samplers: list[LocalSampler] = []
        self._models: set[str] = set()
        self._registry: SamplerRegistry | None = None
        self._changing, self._loading_plain = asyncio.Lock(), asyncio.Lock()
        self._device = "cpu"
        self.on_model_lost = ignore_lost

    async def start(self, registry: SamplerRegistry) -> None:
        """Open the threads; they are registered once the first model is loaded."""
        self._registry = registry
        keep_freed_memory()  # before the samplers' threads allocate
        devices = await asyncio.to_thread(_devices, self._wanted)
        self._device = devices[0]
        self._samplers = [LocalSampler(f"local-{i}", device) for i, device in enumerate(devices)]

    async def stop(self) -> None:
        """Take the samplers from the coordinator and end their threads."""
        self._deregister()
        samplers, self._samplers = self._samplers, []
        for sampler in samplers:
            await asyncio.to_thread(sampler.close)
        self._models.clear()

    async def load(self, model: ModelFiles, tell: Tell = nobody) -> LoadReport:
        """Load a model on each sampler in turn, so that the others serve meanwhile."""
        async with self._loading_plain if model.is_plain else self._changing:
            if not self._samplers or self._registry is None:
                raise NoWorkersError("The samplers have not been started.")
            loads = [partial(sampler.load, tell=nobody if i else tell) for i, sampler in enumerate(self._samplers)]
            unloads = [sampler.unload for sampler in self._samplers]
            report = await load_on_each(model, list(zip(loads, unloads, strict=True)), tell)
            if not self._models:
                for sampler in self._samplers:
                    self._registry.add_sampler(sampler, report.rate, report.batch)
            self._models.add(model.key)
            return report

    async def unload(self, key: str) -> None:
        """Forget a model on each sampler."""
        async with self._changing:
            for sampler in self._samplers:
                sampler.unload(key)
            if self._models == {key}:
                self._deregister()
            self._models.discard(key)

    def status(self) -> PoolStatus:
        """Threads do not get lost: all are ready once one model is loaded."""
        count = len(self._samplers)
        return PoolStatus(count, 0, 0, self._device) if self._models else PoolStatus(0, count, 0, self._device)

    def _deregister(self) -> None:
        if self._registry and self._models:
            for sampler in self._samplers:
                self._registry.remove_sampler(sampler.id)


async def load_on_each(
    model: ModelFiles,
    samplers: list[tuple[Callable[[ModelFiles], Awaitable[LoadReport]], Callable[[str], None]]],
    tell: Tell = nobody,
) -> LoadReport:
    """Load on one sampler after the other, as the first one chose; after an error none keeps the model.

    `samplers` are one or more, each as its functions to load a model and to forget one.
    """
    loaded: list[Callable[[str], None]] = []
    reports: list[LoadReport] = []
    for load, unload in samplers:
        if loaded:
            tell(spreading(len(loaded), len(samplers)))
        try:
            reports.append(await load(model))
        except ModelLoadError:
            for forget in loaded:
                forget(model.key)
            raise
        loaded.append(unload)
        model = model.as_chosen(reports[0])
    return reports[0]


def spreading(have_it: int, samplers: int) -> LoadStep:
    """The step in which the other samplers load what the first one has loaded."""
    return LoadStep("spreading", f"loads on the other samplers, {have_it} of {samplers} have it")


def _devices(wanted: int | None) -> list[str]:
    with collecting_later():
        import torch

    if torch.cuda.is_available():
        there = torch.cuda.device_count()
        return [f"cuda:{i % there}" for i in range(wanted or there)]
    count = wanted or 1
    if count > 1:  # several samplers share the cores instead of fighting for them
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    return ["cpu"] * count
