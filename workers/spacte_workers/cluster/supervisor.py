"""Keeps one sampler actor alive, loaded and registered.

Every actor has a supervisor, which runs one task: wait until the actor answers, load what it lacks, register it with
the coordinator, ping it once a second, take it from the coordinator the moment it fails, and begin again. Ray restarts
the process; the supervisor loads again what a restarted process has forgotten.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from spacte_workers.errors import ModelLoadError
from spacte_workers.load_steps import Tell, nobody
from spacte_workers.serving.pools import LoadReport, ModelFiles, SamplerRegistry
from spacte_workers.shards import SamplerLostError

from .sampler import ImageCache, ModelMissingError, Pong, RaySampler
from .start_reasons import why_not_up

_log = logging.getLogger(__name__)

PING_EVERY_S = 1.0
"""Chosen: a dead sampler is noticed within a second also while nobody draws, and a ping costs half a millisecond."""

PING_TIMEOUT_S = 5.0
"""Chosen: a ping waits for the interpreter lock of a busy sampler, and at times for a machine that swaps."""

HUNG_AFTER_S = 60.0
"""A process that answers no ping for so long is replaced. Chosen: longer than any stall that it recovers from."""

TELL_EVERY_S = 30.0
"""Between two log lines about a sampler that is not up. Chosen: a start takes less, and nobody waits for longer."""

BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Pauses after failures in a row. Chosen: a crash costs half a second, a sampler that always fails little work."""


@dataclass(frozen=True, slots=True)
class RequiredModel:
    """A model that every sampler must have: how to load it, and its files in Ray's object store."""

    model: ModelFiles
    files: Any


class SamplerSupervisor:
    """An actor that is kept alive, loaded and registered.

    Args:
        name: stays the same over restarts.
        create: makes a new actor on a node, or where there is room.
        home: the node that it is meant for, if any.
        reserved: what Ray reserves for the actor.
        required: the models that every sampler must have, by key; shared by all supervisors and changed by the pool.
    """

    def __init__(
        self,
        name: str,
        create: Callable[[str | None], Any],
        home: str | None,
        reserved: dict[str, float],
        required: dict[str, RequiredModel],
        registry: SamplerRegistry,
        images: ImageCache,
    ) -> None:
        self.name = name
        self.state: Literal["starting", "ready", "lost"] = "starting"
        self.last_pong = 0.0
        self.up = asyncio.Event()
        """Set while the actor answers pings, whatever it has loaded."""
        self.device = ""
        self._create = create
        self._home = home
        self._actor = create(home)
        self._reserved = reserved
        self._required = required
        self._registry = registry
        self._images = images
        self._pong: Pong | None = None
        self._told: dict[str, Tell] = {}
        self._reports: dict[str, LoadReport] = {}
        self._registered: str | None = None
        self._doubt = asyncio.Event()
        self._filling = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """The actor's process on its node, once it has answered."""
        return self._pong.pid if self._pong else None

    @property
    def node(self) -> str | None:
        """Where the actor runs, or is meant to."""
        return self._pong.node if self._pong else self._home

    async def supervise(self) -> None:
        """Keep the actor serving until this task is cancelled."""
        failures = 0
        while True:
            try:
                await self._wait_for_answer()
                await self.load_missing()
                failures = 0
                await self._watch()
            except (RayError, SamplerLostError, ModelLoadError, TimeoutError) as error:
                self._lose(error)
            finally:
                self._deregister()
            await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
            failures += 1

    async def load(self, model: ModelFiles, files: Any, tell: Tell = nobody) -> LoadReport:
        """Load a model on this actor; `tell` hears with every ping how far that is.

        Raises:
            ModelLoadError: it does not work here.
            SamplerLostError: the actor is gone.
        """
        self._told[model.key] = tell
        try:
            report: LoadReport = await self._actor.load.remote(model, files)
        except RayTaskError as error:
            if isinstance(error.cause, ModelLoadError):
                raise ModelLoadError(str(error.cause)) from None
            raise ModelLoadError(f"The sampler failed: {error.cause!r}") from error
        except RayError as error:
            self._doubt.set()
            raise SamplerLostError(f"{self.name}: {type(error).__name__}") from error
        finally:
            self._told.pop(model.key, None)
        self._reports[model.key] = report
        self.device = report.device
        return report

    async def load_missing(self) -> None:
        """Load every required model that is missing here; only then may the coordinator use this actor."""
        async with self._filling:
            while missing := [each for key, each in self._required.items() if key not in self._reports]:
                try:
                    await self.load(missing[0].model, missing[0].files)
                except (ModelLoadError, SamplerLostError):
                    self._deregister()
                    self._doubt.set()
                    raise
            self.state = "ready"
            if self._registered is None and self._required and self._pong:
                self._registered = f"{self.name}.{self._pong.incarnation[:8]}"
                sampler = RaySampler(self._registered, self._actor, self._images, self._failed)
                reports = self._reports.values()
                rate, batch = min(report.rate for report in reports), max(report.batch for report in reports)
                self._registry.add_sampler(sampler, rate, batch)

    async def unload(self, key: str) -> None:
        """Forget a model. An actor that is gone has forgotten it already."""
        if self._reports.pop(key, None) is None:
            return
        try:
            await asyncio.wait_for(self._actor.unload.remote(key), PING_TIMEOUT_S)
        except (RayError, TimeoutError):
            self._doubt.set()
        if not self._required:
            self._deregister()

    def move(self, node: str) -> None:
        """Begin anew on another node."""
        self._home = node
        self.end()
        self._doubt.set()

    def end(self) -> None:
        """Kill the actor for good."""
        self._deregister()
        ray.kill(self._actor, no_restart=True)

    async def _wait_for_answer(self) -> None:
        """Wait for a pong: without end where the actor is still to be scheduled, else for a minute."""
        patience = None if self.state == "starting" else HUNG_AFTER_S
        telling = asyncio.create_task(self._tell_why_not_up())
        try:
            pong = await self._ping(patience)
        except TimeoutError:
            _log.warning("Sampler %s has hung: its process is replaced.", self.name)
            ray.kill(self._actor, no_restart=False)
            raise
        finally:
            telling.cancel()
        if self._is_another(pong):
            self._reports.clear()
        self._pong = pong
        self._doubt.clear()
        self.up.set()

    async def _tell_why_not_up(self) -> None:
        """Say in the log, again and again, what Ray says of the actor that is waited for."""
        began = time.monotonic()
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            try:
                async with asyncio.timeout(PING_TIMEOUT_S):
                    why = await asyncio.to_thread(why_not_up, self._actor, self._reserved)
            except Exception as error:  # noqa: BLE001  it asks parts of Ray that promise nothing
                why = f"Ray does not say why ({type(error).__name__})"
            _log.warning("Sampler %s is not up after %.0f s: %s.", self.name, time.monotonic() - began, why)

    async def _watch(self) -> None:
        """Ping until the actor fails, or turns out to be another incarnation."""
        while True:
            with contextlib.suppress(TimeoutError):
                # Not `wait_for`, which loses a cancellation that comes in the same moment (Python 3.11).
                async with asyncio.timeout(PING_EVERY_S):
                    await self._doubt.wait()
            self._doubt.clear()
            if self._is_another(await self._ping(PING_TIMEOUT_S)):
                raise SamplerLostError(f"{self.name} was restarted")
            if self._registered is None and self._required:
                await self.load_missing()

    def _is_another(self, pong: Pong) -> bool:
        return self._pong is None or pong.incarnation != self._pong.incarnation

    async def _ping(self, patience_s: float | None) -> Pong:
        async with asyncio.timeout(patience_s):
            pong: Pong = await self._actor.ping.remote()
        self.last_pong = time.monotonic()
        for key, step in pong.loading:
            self._told.get(key, nobody)(step)
        return pong

    def _failed(self, error: RayError) -> None:
        """A shard came back with an error. The coordinator drops this incarnation; see what is left of it."""
        self._registered = None
        if isinstance(error, RayTaskError) and not isinstance(error.cause, ModelMissingError):
            # The engine itself failed, and an accelerator's context may be lost with it.
            _log.error("Sampler %s failed and is restarted: %s", self.name, error)
            ray.kill(self._actor, no_restart=False)
        self._doubt.set()

    def _lose(self, error: Exception) -> None:
        self.up.clear()
        if self.state == "ready":
            self.state = "lost"
            _log.warning("Sampler %s is lost (%s).", self.name, type(error).__name__)
        if isinstance(error, ModelLoadError):
            _log.error("Sampler %s cannot load a model that others have: %s", self.name, error)
        if isinstance(error, ActorDiedError):  # for good: its constructor failed, or it is to move
            _log.warning("Sampler %s is made anew: %s", self.name, error)
            self._actor = self._create(self._home)
            self._pong = None

    def _deregister(self) -> None:
        if self._registered is not None:
            self._registry.remove_sampler(self._registered)
            self._registered = None
