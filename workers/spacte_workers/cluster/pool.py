"""The pool on Ray: one sampler actor a GPU, or CPU shares where there are none, on every node of the cluster.

Nodes that come later get samplers too, and nodes that go take theirs along; neither needs a restart of anything.
Checkpoints travel to the samplers as bytes through Ray's object store, whether or not the nodes share a disk: so the
bytes that vote are the bytes whose version the answers state.
"""

import asyncio
import hashlib
import logging
import time
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from spacte_workers.errors import ModelLoadError, NoWorkersError
from spacte_workers.load_steps import LoadStep, Tell, nobody
from spacte_workers.serving.device_shares import INTERACTIVE_SHARE
from spacte_workers.serving.pools import LoadReport, ModelFiles, PoolStatus, SamplerRegistry, ignore_lost, spreading
from spacte_workers.shards import SamplerLostError

from .connection import RayConnection, RaySettings
from .placement import misplaced, spare_nodes
from .sampler import CONCURRENCY, ImageCache, SamplerActor
from .supervisor import RequiredModel, SamplerSupervisor

_log = logging.getLogger(__name__)

SEEN_ALIVE_S = 10.0
"""A sampler counts as ready for so long after its last pong. Chosen: two pings with their timeout of 5 s."""

_RECOUNT_EVERY_S = 2.0  # chosen: a node that joins serves soon, and `ray.nodes` costs some milliseconds
_SAMPLERS_A_NODE = 8  # chosen: CPU samplers of a node; losing one loses an eighth of it
_GPU_SAMPLER_THREADS = 2  # chosen: one thread feeds the GPU, one answers pings


@dataclass(frozen=True)
class SamplerResources:
    """What one sampler takes of a node: a GPU or CPU cores, and the cores that torch may use."""

    device: Literal["cuda", "cpu"]
    threads: int

    @classmethod
    def fitting(cls, nodes: list[dict[str, Any]], threads: int | None) -> "SamplerResources":
        """GPUs where the cluster has any: votes of one certificate all come from one kind of device."""
        if any(_resource(node, "GPU") >= 1 for node in nodes):
            return cls("cuda", threads or _GPU_SAMPLER_THREADS)
        cores = min((int(_resource(node, "CPU")) for node in nodes if _resource(node, "CPU") >= 1), default=1)
        return cls("cpu", threads or max(1, cores // _SAMPLERS_A_NODE))

    def capacity(self, nodes: list[dict[str, Any]]) -> dict[str, int]:
        """How many samplers each node has room for, by id."""
        if self.device == "cuda":
            return {node["NodeID"]: int(_resource(node, "GPU")) for node in nodes}
        return {node["NodeID"]: int(_resource(node, "CPU")) // self.threads for node in nodes}

    def reserved(self, share: float) -> dict[str, float]:
        """What Ray reserves for one sampler."""
        if self.device == "cuda":
            return {"num_gpus": share, "num_cpus": share}
        return {"num_gpus": 0, "num_cpus": round(self.threads * share, 4)}


class RayPool:
    """Sampler actors, supervised and registered with a coordinator.

    Args:
        settings: which Ray; by default a local one, or the one at `RAY_ADDRESS`.
        min_samplers: this many are asked for even where the cluster has no room for them yet, so that Ray's autoscaler
            sees them waiting.
        max_samplers: no more than this; default as many as the cluster has room for.
        threads: cores of a CPU sampler; by default an eighth of a node's, at least one.
        share: the part of a GPU, or of its cores, that a sampler reserves.
        yields: the samplers leave the processor to those of others, as a job's do.
    """

    def __init__(
        self,
        settings: RaySettings | None = None,
        *,
        min_samplers: int = 1,
        max_samplers: int | None = None,
        threads: int | None = None,
        share: float = INTERACTIVE_SHARE,
        yields: bool = False,
    ) -> None:
        self.supervisors: list[SamplerSupervisor] = []
        """One a sampler, whether or not it is up."""
        self.on_model_lost = ignore_lost  # it keeps the files of what it loads
        self._connection = RayConnection(settings or RaySettings())
        self._min = min_samplers
        self._max = max_samplers
        self._threads = threads
        self._share = share
        self._yields = yields
        self._resources = SamplerResources("cpu", 1)
        self._following: asyncio.Task[None] | None = None
        self._supervising: list[asyncio.Task[None]] = []
        self._required: dict[str, RequiredModel] = {}
        self._images = ImageCache()
        self._changing, self._loading_plain = asyncio.Lock(), asyncio.Lock()
        self._registry: SamplerRegistry | None = None

    async def start(self, registry: SamplerRegistry) -> None:
        """Connect to Ray and ask for samplers; they register themselves as they come up.

        Raises:
            ClusterError: Ray could not be started or joined.
        """
        self._registry = registry
        await self._connection.open()
        nodes = await asyncio.to_thread(_nodes)
        self._resources = SamplerResources.fitting(nodes, self._threads)
        self._add_samplers(nodes)
        self._following = asyncio.create_task(self._follow_cluster())

    async def stop(self) -> None:
        """End the samplers, and leave Ray."""
        following, self._following = self._following, None
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        await self._end_samplers()
        self._required.clear()
        await self._connection.close()

    async def load(self, model: ModelFiles, tell: Tell = nobody) -> LoadReport:
        """Load a model on one sampler, and then, as that one chose to, on all others at once.

        Waits for a first sampler as long as it takes to come up.

        Raises:
            ModelLoadError: the checkpoint does not work.
        """
        async with self._loading_plain if model.is_plain else self._changing:
            files = await asyncio.to_thread(_read, model)
            reference = await asyncio.to_thread(ray.put, files)
            first, report = await self._load_first(model, reference, tell)
            self._required[model.key] = RequiredModel(model.as_chosen(report), reference)
            others = [each for each in self.supervisors if each is not first and each.up.is_set()]
            if others:
                tell(spreading(1, 1 + len(others)))
            # One that fails here has taken itself from the coordinator, and its own task brings it back.
            await asyncio.gather(*(each.load_missing() for each in [first, *others]), return_exceptions=True)
            return report

    async def unload(self, key: str) -> None:
        """Forget a model on every sampler."""
        async with self._changing:
            self._required.pop(key, None)
            await asyncio.gather(*(each.unload(key) for each in self.supervisors))

    def status(self) -> PoolStatus:
        """How many samplers there are; ready are those that answered a ping within ten seconds."""
        fresh = time.monotonic() - SEEN_ALIVE_S
        ready = sum(each.state == "ready" and each.last_pong > fresh for each in self.supervisors)
        starting = sum(each.state == "starting" for each in self.supervisors)
        device = next((each.device for each in self.supervisors if each.device), self._resources.device)
        return PoolStatus(ready, starting, len(self.supervisors) - ready - starting, device)

    async def _load_first(self, model: ModelFiles, files: Any, tell: Tell) -> tuple[SamplerSupervisor, LoadReport]:
        while True:
            tell(LoadStep("samplers", f"waits for one of {len(self.supervisors)} samplers"))
            supervisor = await self._any_up()
            try:
                return supervisor, await supervisor.load(model, files, tell)
            except SamplerLostError:
                supervisor.up.clear()  # its task sets it again

    async def _any_up(self) -> SamplerSupervisor:
        """A sampler that answers."""
        while True:
            for supervisor in self.supervisors:
                if supervisor.up.is_set():
                    return supervisor
            if self._following is None:
                raise NoWorkersError("The samplers have not been started.")
            waits = [asyncio.create_task(each.up.wait()) for each in self.supervisors]
            await asyncio.wait(waits, timeout=_RECOUNT_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()

    async def _follow_cluster(self) -> None:
        """Add samplers on nodes that join."""
        while True:
            await asyncio.sleep(_RECOUNT_EVERY_S)
            nodes = await asyncio.to_thread(_nodes)
            await self._change_device(nodes)
            self._add_samplers(nodes)
            self._move_one(nodes)

    async def _change_device(self, nodes: list[dict[str, Any]]) -> None:
        """Begin anew where the first GPUs join before any sampler is up, as where an autoscaler brings them."""
        resources = SamplerResources.fitting(nodes, self._threads)
        nobody_yet = not self._required and all(each.pid is None for each in self.supervisors)
        if resources.device != self._resources.device and nobody_yet:
            await self._end_samplers()
            self._resources = resources

    async def _end_samplers(self) -> None:
        supervising, self._supervising = self._supervising, []
        for task in supervising:
            task.cancel()
        await asyncio.gather(*supervising, return_exceptions=True)
        supervisors, self.supervisors = self.supervisors, []
        for supervisor in supervisors:
            supervisor.end()

    def _add_samplers(self, nodes: list[dict[str, Any]]) -> None:
        capacity = self._resources.capacity(nodes)
        wanted = max(self._min, sum(capacity.values()))
        if self._max is not None:
            wanted = min(wanted, self._max)
        homes = iter(spare_nodes(capacity, self._places()))
        while len(self.supervisors) < wanted:
            # One without a home waits for a node, and Ray's autoscaler sees it waiting.
            self.supervisors.append(self._supervisor(f"sampler-{len(self.supervisors)}", next(homes, None)))
            self._supervising.append(asyncio.create_task(self.supervisors[-1].supervise()))

    def _move_one(self, nodes: list[dict[str, Any]]) -> None:
        """Where a node has room and another is too full, as after a loss: move a sampler, if others serve."""
        capacity = self._resources.capacity(nodes)
        spare = spare_nodes(capacity, self._places())
        position = misplaced(capacity, self._places())
        if spare and position is not None and self.status().ready == len(self.supervisors) > 1:
            self.supervisors[position].move(spare[0])

    def _places(self) -> list[str | None]:
        return [each.node for each in self.supervisors]

    def _supervisor(self, name: str, home: str | None) -> SamplerSupervisor:
        if self._registry is None:
            raise NoWorkersError("The samplers have not been started.")
        actor_class = _remote(SamplerActor, concurrency_groups=CONCURRENCY)
        reserved = self._resources.reserved(self._share)
        options = {"max_restarts": -1, "max_task_retries": 0, **reserved}
        arguments = (self._resources.threads, self._resources.device, self._yields)

        def create(node: str | None) -> Any:
            place = NodeAffinitySchedulingStrategy(node, soft=True) if node else "SPREAD"
            return actor_class.options(scheduling_strategy=place, **options).remote(*arguments)

        return SamplerSupervisor(name, create, home, reserved, self._required, self._registry, self._images)


def _remote(cls: type, **options: Any) -> Any:
    """`ray.remote` as its documentation has it; its type stubs do not know concurrency groups."""
    return ray.remote(**options)(cls)


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _resource(node: dict[str, Any], name: str) -> float:
    return node["Resources"].get(name, 0.0)


def _read(model: ModelFiles) -> dict[str, bytes]:
    """The checkpoint's files by name, checked against the version that was promised."""
    from spacte_core.checkpoint import CONFIG_FILE, WEIGHTS_FILE

    try:
        files = {name: (model.folder / name).read_bytes() for name in (CONFIG_FILE, WEIGHTS_FILE)}
    except OSError as error:
        raise ModelLoadError(f"{model.folder} cannot be read ({error.strerror}): put it back.") from error
    if hashlib.sha256(files[CONFIG_FILE] + files[WEIGHTS_FILE]).hexdigest() != model.version:
        raise ModelLoadError("The checkpoint changed while it was being loaded: load it again.")
    return files
