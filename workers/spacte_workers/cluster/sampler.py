"""The sampler actor: engines in a Ray worker process that draws, loads models and answers pings at once.

The three do so in threads of their own (Ray's concurrency groups): a ping is answered while a shard is drawn,
and shards are drawn while a new model is compiled. Calls are sized by time and never cancelled: `ray.cancel`
on a running method does not interrupt it, and just after submission it can wedge an actor for half a minute.
"""

import logging
import os
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import ray

from spacte_core.allocator import keep_freed_memory
from spacte_workers import tracing
from spacte_workers.serving.pools import LoadReport, ModelFiles, open_engine
from spacte_workers.shards import Image, Shard, Votes
from spacte_workers.tracing import Trace

if TYPE_CHECKING:
    from spacte_workers.engine import Engine

CONCURRENCY = {"draw": 1, "load": 1, "control": 1}

LEAST_WEIGHT = 19
"""As a nice value. Ray starts its workers at 15, so that a gateway's sampler has 2.4 times the weight."""


class ModelMissingError(Exception):
    """The sampler does not have the model: it was restarted, and is being loaded again."""


@dataclass(frozen=True, slots=True)
class Pong:
    """Answer to a ping.

    Attributes:
        incarnation: changes when Ray restarts the actor, which then has no models.
        node: where it runs.
        pid: its process.
    """

    incarnation: str
    node: str
    pid: int


class SamplerActor:
    """Holds engines by model key.

    Args:
        threads: cores that torch may use.
        device: `cpu` or `cuda`.
        yields: leave the processor to whoever else wants it, as batch work does beside a gateway's samplers.
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
        self._pong = Pong(uuid.uuid4().hex, ray.get_runtime_context().get_node_id(), os.getpid())
        self._name = f"sampler {self._pong.pid} on node {self._pong.node[:8]}"

    @ray.method(concurrency_group="control")
    def ping(self) -> Pong:
        """Say that this process is alive, and which it is."""
        return self._pong

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
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="spacte-checkpoint-") as folder:
            for name, data in files.items():
                (Path(folder) / name).write_bytes(data)
            engine = open_engine(model.moved_to(Path(folder)), self._device)
        self._engines[model.key] = engine
        device, seconds = _device_name(self._device), time.perf_counter() - started
        return LoadReport(engine.precision, device, engine.measured_rate, engine.batch, engine.kernels, seconds)

    @ray.method(concurrency_group="control")
    def unload(self, key: str) -> None:
        """Forget a model and give its memory back."""
        self._engines.pop(key, None)
        if self._device == "cuda":
            import torch

            torch.cuda.empty_cache()


def _yield_processor() -> None:
    """Give this process the least weight. Linux weighs threads one by one, and new ones as their makers."""
    for thread in Path("/proc/self/task").iterdir():
        os.setpriority(os.PRIO_PROCESS, int(thread.name), LEAST_WEIGHT)


def _device_name(device: str) -> str:
    if device == "cpu":
        return device
    import torch

    return torch.cuda.get_device_name()
