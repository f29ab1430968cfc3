"""The gateway's side of its Ray process: a pool of samplers, and a runner of jobs, that outlive the loss of Ray.

The process is started again whenever it ends, and gets its models again; until then there is no sampler, and requests
wait for one as long as the coordinator lets them.
"""

import asyncio
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import Any

from spacte_service.jobs.runner import DriverStatus, UnreachableError
from spacte_workers.errors import ClusterError, ModelLoadError, NoWorkersError, RuntimeFault
from spacte_workers.load_steps import Tell, nobody
from spacte_workers.serving.pools import LoadReport, ModelFiles, PoolStatus, SamplerRegistry, ignore_lost
from spacte_workers.shards import SamplerLostError, SampleTask, Votes

from .channel import Channel, ClosedError
from .messages import Answer, Call, CallName, Loading, LogLine, RayOptions, SamplerGone, SamplerUp, Started, Status

_log = logging.getLogger("spacte.ray")

BACKOFF_S = (0.5, 2.0, 5.0, 10.0, 30.0)
"""Pauses before starting again, after failures in a row. Chosen: a crash costs half a second, a lost cluster a try in
half a minute."""

SILENT_S = 5.0  # without a status the samplers do not count as ready; chosen: ten times their period
END_S = 20.0  # for Ray to end with its process; chosen: `ray.shutdown` takes two


class ProcessPool:
    """Samplers on Ray, by way of a process of its own.

    Args:
        options: which Ray, and which samplers on it; by default as many as there is room for, on the Ray that
            `RAY_ADDRESS` names or a local one.
    """

    def __init__(self, options: RayOptions | None = None) -> None:
        self.started = asyncio.Event()
        """Set once Ray was connected for the first time."""
        self.on_model_lost = ignore_lost
        self._options = options or RayOptions()
        self._registry: SamplerRegistry | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._up = asyncio.Event()  # a process serves, with every model
        self._numbers = count()
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._told: dict[str, Tell] = {}
        self._required: dict[str, ModelFiles] = {}
        self._samplers: dict[str, SamplerUp] = {}
        self._status = PoolStatus(0, 0, 0, "cpu")
        self._heard = 0.0
        self._supervising: asyncio.Task[None] | None = None

    async def start(self, registry: SamplerRegistry) -> None:
        """Start the process, which connects to Ray. Raises ClusterError: Ray could not be started or joined."""
        self._registry = registry
        channel = await self._launch()
        self.started.set()
        self._supervising = asyncio.create_task(self._supervise(channel))

    async def stop(self) -> None:
        """End the process, and with it the samplers and a Ray of its own; drivers on a cluster run on."""
        supervising, self._supervising = self._supervising, None
        if supervising is not None:
            supervising.cancel()
            await asyncio.gather(supervising, return_exceptions=True)
        self._required.clear()
        await self._end()

    async def load(self, model: ModelFiles, tell: Tell = nobody) -> LoadReport:
        """Load a model on every sampler, now and whenever they are started again.

        Raises:
            ModelLoadError: the checkpoint does not work.
        """
        self._told[model.key] = tell
        try:
            return await self._load(model)
        finally:
            self._told.pop(model.key, None)

    async def _load(self, model: ModelFiles) -> LoadReport:
        while True:
            try:
                report: LoadReport = await self.call("load", model)
            except SamplerLostError:  # Ray was lost meanwhile
                if self._supervising is None:
                    raise NoWorkersError("The samplers have been stopped.") from None
                await self._up.wait()
                continue
            self._required[model.key] = model.as_chosen(report)
            return report

    async def unload(self, key: str) -> None:
        """Forget a model on every sampler."""
        self._required.pop(key, None)
        with suppress(SamplerLostError):
            await self.call("unload", key)

    def status(self) -> PoolStatus:
        """How many samplers there are; none is ready where the process is away or silent."""
        if self._up.is_set() and time.monotonic() - self._heard < SILENT_S:
            return self._status
        return replace(self._status, ready=0, lost=self._status.lost + self._status.ready)

    async def draw(self, sampler_id: str, model: str, tasks: Sequence[SampleTask]) -> list[Votes]:
        """The votes of one sampler. Raises SamplerLostError: it is gone."""
        return await self.call("draw", sampler_id, model, tasks)

    async def call(self, name: CallName, *arguments: Any) -> Any:
        """What the process returns or raises. Raises SamplerLostError: it is gone."""
        if self._channel is None:
            raise SamplerLostError("Ray is away")
        number = next(self._numbers)
        future = self._calls[number] = asyncio.get_running_loop().create_future()
        try:
            self._channel.send(Call(number, name, arguments))
            return await future
        finally:
            self._calls.pop(number, None)

    async def _launch(self) -> Channel:
        """A process that is connected to Ray. Raises ClusterError: it could not be."""
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "spacte_service.ray_process.child", str(theirs.fileno())]
            # A session of its own: Ctrl-C is for the gateway, which drains first.
            self._process = subprocess.Popen(  # noqa: ASYNC220, S603  forks; it waits for nothing
                command, pass_fds=[theirs.fileno()], start_new_session=True, stdin=subprocess.DEVNULL
            )
        channel = await Channel.over(ours)
        channel.send((self._options, _log.getEffectiveLevel()))
        try:
            while not isinstance(message := await channel.receive(), Started):
                self._take(message)
        except ClosedError:
            message = Started("Ray ended the process that started it: free memory, or run without Ray (--in-process).")
        except BaseException:
            channel.close()
            await self._end()
            raise
        if message.error is not None:
            channel.close()
            await self._end()
            raise ClusterError(message.error)
        self._channel = channel
        return channel

    async def _supervise(self, channel: Channel) -> None:
        """Take what the process says, and start another one when it ends, until this task is cancelled."""
        failures = 0
        while True:
            restoring = asyncio.create_task(self._restore())
            try:
                while True:
                    self._take(await channel.receive())
                    failures = 0 if self._up.is_set() else failures
            except ClosedError:
                self._lose(restoring)
            finally:
                restoring.cancel()
            await self._end()
            while True:
                await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
                failures += 1
                try:
                    channel = await self._launch()
                except ClusterError as error:
                    _log.error("Ray is away, and could not be started or joined again: %s", error)
                else:
                    break

    async def _restore(self) -> None:
        """Load again what the samplers had before, and only then have them used."""
        for key, model in list(self._required.items()):
            try:
                await self.call("load", model)
            except SamplerLostError:
                return
            except ModelLoadError as error:
                self._required.pop(key, None)
                self.on_model_lost(key, str(error))
            except (RuntimeFault, RuntimeError) as error:
                _log.error("Model %s could not be loaded again: %s", key, error)
        self._up.set()
        for sampler in self._samplers.values():
            self._announce(sampler)

    def _take(self, message: object) -> None:
        match message:
            case Answer(number, value, failed):
                future = self._calls.get(number)
                if future is not None and not future.done():
                    future.set_exception(value) if failed else future.set_result(value)
            case SamplerUp():
                self._samplers[message.sampler_id] = message
                if self._up.is_set():
                    self._announce(message)
            case SamplerGone(sampler_id):
                self._samplers.pop(sampler_id, None)
                if self._registry:
                    self._registry.remove_sampler(sampler_id)
            case Loading(key, step):
                self._told.get(key, nobody)(step)
            case Status(pool):
                self._status, self._heard = pool, time.monotonic()
            case LogLine(logger, level, text):
                logging.getLogger(logger).log(level, "%s", text)
            case _:
                raise TypeError(f"unknown message {message!r}")

    def _announce(self, sampler: SamplerUp) -> None:
        if self._registry:
            self._registry.add_sampler(ProcessSampler(sampler.sampler_id, self), sampler.rate, sampler.batch)

    def _lose(self, restoring: asyncio.Task[None]) -> None:
        """The process has ended: nothing is in flight any more, and nobody draws."""
        restoring.cancel()
        self._up.clear()
        self._channel = None
        _log.error("The process that was connected to Ray has ended; it is started again.")
        for future in self._calls.values():
            if not future.done():
                future.set_exception(SamplerLostError("Ray is gone"))
        for sampler_id in self._samplers:
            if self._registry:
                self._registry.remove_sampler(sampler_id)
        self._samplers.clear()

    async def _end(self) -> None:
        """Close the channel and wait for the process; what does not end is killed."""
        channel, self._channel = self._channel, None
        self._up.clear()
        if channel is not None:
            channel.close()
        process, self._process = self._process, None
        if process is not None:
            try:
                await asyncio.to_thread(process.wait, END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                await asyncio.to_thread(process.wait)


class ProcessSampler:
    """One sampler of a `ProcessPool`, as the coordinator sees it."""

    def __init__(self, sampler_id: str, pool: ProcessPool) -> None:
        self.id = sampler_id
        self._pool = pool

    async def sample_many(self, model: str, tasks: Sequence[SampleTask]) -> list[Votes]:
        """Draw the shards. Raises SamplerLostError: the sampler is gone."""
        return await self._pool.draw(self.id, model, tasks)


class RayRunner:
    """Ray Jobs on the cluster of a `ProcessPool`: a `Runner` of jobs."""

    def __init__(self, pool: ProcessPool) -> None:
        self._pool = pool

    async def submit(self, submission_id: str, command: Sequence[str]) -> None:
        """Start a driver. Raises UnreachableError."""
        await self._ask("submit", submission_id, command)

    async def status(self, submission_id: str) -> DriverStatus | None:
        """What the cluster says of a driver. Raises UnreachableError."""
        return await self._ask("status", submission_id)

    async def stop(self, submission_id: str) -> None:
        """End a driver. Raises UnreachableError."""
        await self._ask("stop", submission_id)

    async def close(self) -> None:
        """Drivers run on; the pool ends the process."""

    async def _ask(self, name: CallName, *arguments: Any) -> Any:
        await self._pool.started.wait()
        try:
            return await self._pool.call(name, *arguments)
        except SamplerLostError as error:
            raise UnreachableError("Ray is away") from error
