"""The pool on Ray: one sampler actor a GPU, or CPU shares where there are none, on every node of the cluster.

Nodes that come later get samplers too, and nodes that go take theirs along; neither needs a restart of
anything. Checkpoints travel to the samplers as bytes through Ray's object store, whether or not the nodes
share a disk: so the bytes that vote are the bytes whose version the answers state.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from spacte_workers.errors import ModelLoadError, NoWorkersError
from spacte_workers.serving.device_shares import INTERACTIVE_SHARE
from spacte_workers.serving.pools import Census, LoadReport, ModelFiles, SamplerRegister
from spacte_workers.shards import SamplerLostError

from .cluster import RayConnection, RaySettings
from .placement import astray, spare_nodes
from .sampler import CONCURRENCY, SamplerActor
from .supervisor import Held, ImageShelf, Seat

_log = logging.getLogger(__name__)

SEEN_ALIVE_S = 10.0
_RECOUNT_EVERY_S = 2.0
_SAMPLERS_A_NODE = 8
_GPU_SAMPLER_THREADS = 2


@dataclass(frozen=True)
class Shape:
    """What one sampler takes of a node.

    Attributes:
        device: `cuda` or `cpu`.
        threads: cores that torch may use in a sampler.
    """

    device: Literal["cuda", "cpu"]
    threads: int

    def rooms(self, nodes: list[dict[str, Any]]) -> dict[str, int]:
        """How many samplers each node has room for, by id."""
        if self.device == "cuda":
            return {node["NodeID"]: int(_resource(node, "GPU")) for node in nodes}
        return {node["NodeID"]: int(_resource(node, "CPU")) // self.threads for node in nodes}

    def resources(self, share: float) -> dict[str, float]:
        """What Ray reserves for one sampler."""
        if self.device == "cuda":
            return {"num_gpus": share, "num_cpus": share}
        return {"num_gpus": 0, "num_cpus": round(self.threads * share, 4)}


class RayPool:
    """Sampler actors, watched and registered with a coordinator.

    Args:
        settings: which Ray; by default a local one, or the one at `RAY_ADDRESS`.
        min_samplers: this many are asked for even where the cluster has no room for them yet, so that Ray's
            autoscaler sees them waiting.
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
        self._connection = RayConnection(settings or RaySettings())
        self._min = min_samplers
        self._max = max_samplers
        self._threads = threads
        self._share = share
        self._yields = yields
        self._shape = Shape("cpu", 1)
        self._seats: list[Seat] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._tended: list[asyncio.Task[None]] = []
        self._held: dict[str, Held] = {}
        self._shelf = ImageShelf()
        self._changing = asyncio.Lock()
        self._register: SamplerRegister | None = None

    async def start(self, register: SamplerRegister) -> None:
        """Connect to Ray and ask for samplers; they register themselves as they come up.

        Raises:
            ClusterError: Ray could not be started or joined.
        """
        self._register = register
        await self._connection.open()
        nodes = await asyncio.to_thread(_nodes)
        self._shape = _shape(nodes, self._threads)
        self._take_seats(nodes)
        self._tasks.append(asyncio.create_task(self._follow_cluster()))

    async def stop(self) -> None:
        """End the samplers, and leave Ray."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._give_up_seats()
        self._held.clear()
        await self._connection.close()

    async def load(self, model: ModelFiles) -> LoadReport:
        """Load a model on one sampler, and then, as that one chose to, on all others at once.

        Waits for a first sampler as long as it takes to come up.

        Raises:
            ModelLoadError: the checkpoint does not work.
        """
        async with self._changing:
            files = await asyncio.to_thread(_read, model)
            reference = await asyncio.to_thread(ray.put, files)
            first, report = await self._load_first(model, reference)
            self._held[model.key] = Held(model.as_chosen(report), reference)
            others = [seat for seat in self._seats if seat is not first and seat.up.is_set()]
            # One that fails here has taken itself from the coordinator, and its own task brings it back.
            await asyncio.gather(*(seat.fill() for seat in [first, *others]), return_exceptions=True)
            return report

    async def unload(self, key: str) -> None:
        """Forget a model on every sampler."""
        async with self._changing:
            self._held.pop(key, None)
            await asyncio.gather(*(seat.unload(key) for seat in self._seats))

    def census(self) -> Census:
        """How many samplers there are; ready are those that answered a ping within ten seconds."""
        fresh = time.monotonic() - SEEN_ALIVE_S
        ready = sum(seat.state == "ready" and seat.last_pong > fresh for seat in self._seats)
        starting = sum(seat.state == "starting" for seat in self._seats)
        device = next((seat.device for seat in self._seats if seat.device), self._shape.device)
        return Census(ready, starting, len(self._seats) - ready - starting, device)

    @property
    def seats(self) -> Sequence[Seat]:
        """The places of the samplers, filled or not."""
        return self._seats

    async def _load_first(self, model: ModelFiles, reference: Any) -> tuple[Seat, LoadReport]:
        while True:
            seat = await self._any_up()
            try:
                return seat, await seat.load(model, reference)
            except SamplerLostError:
                seat.up.clear()  # its task sets it again

    async def _any_up(self) -> Seat:
        """A sampler that answers."""
        while True:
            for seat in self._seats:
                if seat.up.is_set():
                    return seat
            if not self._tasks:
                raise NoWorkersError("The samplers have not been started.")
            waits = [asyncio.create_task(seat.up.wait()) for seat in self._seats]
            await asyncio.wait(waits, timeout=_RECOUNT_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()

    async def _follow_cluster(self) -> None:
        """Take seats on nodes that join."""
        while True:
            await asyncio.sleep(_RECOUNT_EVERY_S)
            nodes = await asyncio.to_thread(_nodes)
            await self._reshape(nodes)
            self._take_seats(nodes)
            self._move_one(nodes)

    async def _reshape(self, nodes: list[dict[str, Any]]) -> None:
        """Begin anew where the first GPUs join before any sampler is up, as where an autoscaler brings them."""
        shape = _shape(nodes, self._threads)
        nobody_yet = not self._held and all(seat.pid is None for seat in self._seats)
        if shape.device != self._shape.device and nobody_yet:
            await self._give_up_seats()
            self._shape = shape

    async def _give_up_seats(self) -> None:
        tended, self._tended = self._tended, []
        for task in tended:
            task.cancel()
        await asyncio.gather(*tended, return_exceptions=True)
        seats, self._seats = self._seats, []
        for seat in seats:
            seat.end()

    def _take_seats(self, nodes: list[dict[str, Any]]) -> None:
        rooms = self._shape.rooms(nodes)
        wanted = max(self._min, sum(rooms.values()))
        if self._max is not None:
            wanted = min(wanted, self._max)
        homes = iter(spare_nodes(rooms, self._places()))
        while len(self._seats) < wanted:
            # One without a home waits for a node, and Ray's autoscaler sees it waiting.
            self._seats.append(self._seat(f"sampler-{len(self._seats)}", next(homes, None)))
            self._tended.append(asyncio.create_task(self._seats[-1].tend()))

    def _move_one(self, nodes: list[dict[str, Any]]) -> None:
        """Where a node has room and another is too full, as after a loss: move a sampler, if others serve."""
        rooms = self._shape.rooms(nodes)
        spare = spare_nodes(rooms, self._places())
        stray = astray(rooms, self._places())
        if spare and stray is not None and self.census().ready == len(self._seats) > 1:
            self._seats[stray].move(spare[0])

    def _places(self) -> list[str | None]:
        return [seat.node for seat in self._seats]

    def _seat(self, name: str, home: str | None) -> Seat:
        if self._register is None:
            raise NoWorkersError("The samplers have not been started.")
        actor_class = _remote(SamplerActor, concurrency_groups=CONCURRENCY)
        options = {"max_restarts": -1, "max_task_retries": 0, **self._shape.resources(self._share)}
        arguments = (self._shape.threads, self._shape.device, self._yields)

        def create(node: str | None) -> Any:
            place = NodeAffinitySchedulingStrategy(node, soft=True) if node else "SPREAD"
            return actor_class.options(scheduling_strategy=place, **options).remote(*arguments)

        return Seat(name, create, home, self._held, self._register, self._shelf)


def _remote(cls: type, **options: Any) -> Any:
    """`ray.remote` as its documentation has it; its type stubs do not know concurrency groups."""
    return ray.remote(**options)(cls)


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _resource(node: dict[str, Any], name: str) -> float:
    return node["Resources"].get(name, 0.0)


def _shape(nodes: list[dict[str, Any]], threads: int | None) -> Shape:
    """GPUs where the cluster has any: votes of one certificate all come from one kind of device."""
    if any(_resource(node, "GPU") >= 1 for node in nodes):
        return Shape("cuda", threads or _GPU_SAMPLER_THREADS)
    cores = min((int(_resource(node, "CPU")) for node in nodes if _resource(node, "CPU") >= 1), default=1)
    return Shape("cpu", threads or max(1, cores // _SAMPLERS_A_NODE))


def _read(model: ModelFiles) -> dict[str, bytes]:
    """The checkpoint's files by name; their version is what was promised."""
    from spacte_core.checkpoint import CONFIG_FILE, WEIGHTS_FILE

    try:
        files = {name: (model.folder / name).read_bytes() for name in (CONFIG_FILE, WEIGHTS_FILE)}
    except OSError as error:
        raise ModelLoadError(f"{model.folder} cannot be read ({error.strerror}): put it back.") from error
    digest = hashlib.sha256(files[CONFIG_FILE])
    digest.update(files[WEIGHTS_FILE])
    if digest.hexdigest() != model.version:
        raise ModelLoadError("The checkpoint changed while it was being loaded: load it again.")
    return files
