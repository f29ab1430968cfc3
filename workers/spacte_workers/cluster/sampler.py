"""A sampler on Ray, both ends: `RaySampler` in the coordinator's process, and the actor that draws.

The actor draws, loads models and answers pings in threads of their own (Ray's concurrency groups): a ping is answered
while a shard is drawn, and shards are drawn while a new model is compiled. Calls are sized by time and never cancelled:
`ray.cancel` on a running method does not interrupt it, and just after submission it can block an actor for half a
minute.
"""

import logging
import os
import tempfile
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError, RayTaskError

from spacte_core.allocator import keep_freed_memory
from spacte_workers import tracing
from spacte_workers.engine.errors import EngineError
from spacte_workers.errors import EndpointError, EndpointFaultError
from spacte_workers.images import BadImageError
from spacte_workers.load_steps import LoadStep, telling
from spacte_workers.serving.pools import LOADS_AT_ONCE, LoadReport, ModelFiles, load_engine
from spacte_workers.shards import Image, SamplerLostError, SampleTask, Shard, Votes, traces_of
from spacte_workers.tracing import Trace

if TYPE_CHECKING:
    from spacte_workers.engine import Engine

CONCURRENCY = {"draw": 1, "load": LOADS_AT_ONCE, "control": 1}
"""Threads of the actor's concurrency groups. Chosen: calls of one kind run one after the other, but for loads."""

LEAST_WEIGHT = 19
"""The largest nice value there is (setpriority(2)). Ray starts its workers at 15, so a gateway's sampler has 2.4 times
the weight (sched(7): a factor of 1.25 a step)."""

INLINE_BYTES = 100_000
"""Smaller images travel inside the call. Measured: 1.6 ms against 2.9 ms through the object store for 3x32x32; Ray
itself inlines arguments below 100 KiB."""

CACHED_IMAGES = 64
"""Images kept in the object store. Chosen: more than a pool has in flight, and some 40 MB at 3x224x224 float32."""


_OF_THE_REQUEST = BadImageError | EngineError | EndpointError | EndpointFaultError
"""What a sampler raises without being at fault: another one would do the same."""


class ModelMissingError(Exception):
    """The sampler does not have the model: it was restarted, and is being loaded again."""


@dataclass(frozen=True, slots=True)
class Pong:
    """Answer to a ping: where the actor runs, its incarnation, and how far the loads of models are, by key.

    The incarnation changes when Ray restarts the actor, which then has no models.
    """

    incarnation: str
    node: str
    pid: int
    loading: tuple[tuple[str, LoadStep], ...] = ()


class ImageCache:
    """Large images in the object store, put there once however many shards they are cut into."""

    def __init__(self) -> None:
        self._refs: OrderedDict[Image, Any] = OrderedDict()

    def argument(self, image: Image) -> Any:
        """The image itself where it is small, else a reference to it."""
        if len(image.data) < INLINE_BYTES:
            return image
        if image not in self._refs:
            self._refs[image] = ray.put(image)
            if len(self._refs) > CACHED_IMAGES:
                self._refs.popitem(last=False)
        self._refs.move_to_end(image)
        return self._refs[image]


class RaySampler:
    """The `Sampler` protocol over one incarnation of a `SamplerActor`, each with an id of its own.

    `on_failure` is told what went wrong before a call raises `SamplerLostError`.
    """

    def __init__(self, sampler_id: str, actor: Any, images: ImageCache, on_failure: Callable[[RayError], None]) -> None:
        self.id = sampler_id
        self._actor = actor
        self._images = images
        self._on_failure = on_failure

    async def sample_many(self, model: str, tasks: Sequence[SampleTask]) -> list[Votes]:
        """Draw the shards; raises `SamplerLostError` when the actor is gone or cannot."""
        images: dict[Image, int] = {}
        shards = [(images.setdefault(task.image, len(images)), task.shard) for task in tasks]
        try:
            return await self._actor.draw.remote(model, shards, traces_of(tasks), *map(self._images.argument, images))
        except RayError as error:
            if isinstance(error, RayTaskError) and isinstance(error.cause, _OF_THE_REQUEST):
                raise error.cause from None
            self._on_failure(error)
            raise SamplerLostError(f"{self.id}: {type(error).__name__}") from error


class SamplerActor:
    """Holds engines by model key.

    Args:
        threads: cores that torch may use.
        device: `cpu` or `cuda`.
        yields: leave the processor to others, as the samplers of a batch job do beside a gateway's.
    """

    def __init__(self, threads: int, device: str, yields: bool = False) -> None:
        import torch

        if yields:
            _yield_processor()
        torch.set_num_threads(threads)
        logging.getLogger("spacte_workers").setLevel(os.environ.get("SPACTE_LOG_LEVEL", "warning").upper())
        tracing.configure("spacte-sampler")
        keep_freed_memory()  # in this thread, before those that draw and load allocate
        self._device = device
        self._engines: dict[str, Engine] = {}
        self._loading: dict[str, LoadStep] = {}
        self._pong = Pong(uuid.uuid4().hex, ray.get_runtime_context().get_node_id(), os.getpid())
        self._name = f"sampler {self._pong.pid} on node {self._pong.node[:8]}"

    @ray.method(concurrency_group="control")
    def ping(self) -> Pong:
        """Say that this process is alive, which it is, and how far its loads are."""
        return replace(self._pong, loading=tuple(self._loading.items()))

    @ray.method(concurrency_group="draw")
    def draw(
        self, key: str, shards: Sequence[tuple[int, Shard]], traces: Sequence[Trace], *images: Image
    ) -> list[Votes]:
        """Votes of each shard, which names its image by position; `traces` tells for which requests.

        Raises:
            ModelMissingError: no model of that key is loaded here.
        """
        try:
            engine = self._engines[key]
        except KeyError:
            raise ModelMissingError(key) from None
        with tracing.drawing(self._name, key, sum(shard.size for _, shard in shards), traces):
            return engine.votes_many([(images[position], shard) for position, shard in shards])

    @ray.method(concurrency_group="load")
    def load(self, model: ModelFiles, files: dict[str, bytes]) -> LoadReport:
        """Load and check a checkpoint that comes as bytes by file name, so that no disk need be shared.

        Raises:
            ModelLoadError: it does not work here.
        """
        with tempfile.TemporaryDirectory(prefix="spacte-checkpoint-") as folder:
            for name, data in files.items():
                (Path(folder) / name).write_bytes(data)
            try:
                with telling(partial(self._loading.__setitem__, model.key)):
                    self._engines[model.key], report = load_engine(replace(model, folder=Path(folder)), self._device)
            finally:
                self._loading.pop(model.key, None)
        return report

    @ray.method(concurrency_group="control")
    def unload(self, key: str) -> None:
        """Forget a model and give its memory back."""
        self._engines.pop(key, None)
        if self._device == "cuda":
            import torch

            torch.cuda.empty_cache()


def _yield_processor() -> None:
    """Give this process the least weight. Linux weighs threads one by one; a new thread inherits its maker's weight."""
    for thread in Path("/proc/self/task").iterdir():
        os.setpriority(os.PRIO_PROCESS, int(thread.name), LEAST_WEIGHT)
