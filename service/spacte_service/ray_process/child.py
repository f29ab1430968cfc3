"""The process that is connected to Ray: samplers and drivers of jobs, on behalf of a gateway.

    python -m spacte_service.ray_process.child FD

It ends when the gateway closes the socket FD, and when raylet or GCS are lost, before Ray's own abort.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

from spacte_service.jobs.ray_runner import RayJobsRunner
from spacte_service.jobs.runner import UnreachableError
from spacte_workers.cluster import RayPool, RaySettings
from spacte_workers.cluster.watching import lost_cluster
from spacte_workers.errors import RuntimeFault
from spacte_workers.serving.pools import LoadReport, ModelFiles
from spacte_workers.shards import Sampler, SamplerLostError, SampleTask, Votes

from .channel import Channel, ClosedError
from .messages import Answer, Call, Forwarding, Loading, RayOptions, SamplerGone, SamplerUp, Started, Status

_log = logging.getLogger("spacte.ray")

STATUS_EVERY_S = 0.5  # chosen: `/readyz` is right within a second


class RayProcess:
    """Serves the calls of one gateway; it is the registry of its pool, too."""

    def __init__(self, channel: Channel, pool: RayPool, *, drivers_here: bool) -> None:
        self._channel = channel
        self._pool = pool
        self._runner = RayJobsRunner(here=drivers_here)
        self._samplers: dict[str, Sampler] = {}
        self._calls: set[asyncio.Task[None]] = set()

    def add_sampler(self, sampler: Sampler, rate: float, batch: int = 1) -> None:
        """Tell the gateway that a sampler can draw."""
        self._samplers[sampler.id] = sampler
        self._channel.send(SamplerUp(sampler.id, rate, batch))

    def remove_sampler(self, sampler_id: str) -> None:
        """Tell the gateway that a sampler is gone."""
        if self._samplers.pop(sampler_id, None) is not None:
            self._channel.send(SamplerGone(sampler_id))

    async def run(self) -> None:
        """Serve until the gateway is gone, or the cluster is."""
        try:
            await self._pool.start(self)
        except RuntimeFault as error:
            self._channel.send(Started(str(error)))
            await self._channel.flush()
            return
        self._channel.send(Started())
        telling = asyncio.create_task(self._tell_status())
        serving = asyncio.create_task(self._serve())
        watching = asyncio.create_task(lost_cluster())
        await asyncio.wait({serving, watching}, return_when=asyncio.FIRST_COMPLETED)
        telling.cancel()
        if not serving.done():  # what is in flight cannot end, and Ray would wait for what is dead
            _log.error("%s The samplers are started again.", watching.result())
            await self._channel.flush()
            os._exit(1)
        watching.cancel()
        for task in self._calls:
            task.cancel()
        await self._runner.close()
        await self._pool.stop()

    async def _serve(self) -> None:
        while True:
            try:
                call: Call = await self._channel.receive()
            except ClosedError:
                return
            task = asyncio.create_task(self._answer(call))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)

    async def _answer(self, call: Call) -> None:
        try:
            answer = Answer(call.number, await self._do(call), failed=False)
        except (RuntimeFault, SamplerLostError, UnreachableError, ValueError) as error:
            answer = Answer(call.number, error, failed=True)
        except Exception as error:  # noqa: BLE001  the gateway is told
            _log.error("%s failed: %r", call.name, error)
            answer = Answer(call.number, RuntimeError(f"{type(error).__name__}: {error}"), failed=True)
        self._channel.send(answer)

    async def _do(self, call: Call) -> Any:
        methods: dict[str, Any] = {
            "load": self._load,
            "unload": self._pool.unload,
            "draw": self._draw,
            "submit": self._runner.submit,
            "status": self._runner.status,
            "stop": self._runner.stop,
        }
        return await methods[call.name](*call.arguments)

    async def _load(self, model: ModelFiles) -> LoadReport:
        return await self._pool.load(model, lambda step: self._channel.send(Loading(model.key, step)))

    async def _draw(self, sampler_id: str, model: str, tasks: Sequence[SampleTask]) -> list[Votes]:
        if sampler_id not in self._samplers:
            raise SamplerLostError(sampler_id)
        return await self._samplers[sampler_id].sample_many(model, tasks)

    async def _tell_status(self) -> None:
        while True:
            self._channel.send(Status(self._pool.status()))
            await asyncio.sleep(STATUS_EVERY_S)


async def _main(end: socket.socket) -> None:
    channel = await Channel.over(end)
    logging.getLogger().addHandler(Forwarding(channel.send))
    options: RayOptions
    options, level = await channel.receive()
    logging.getLogger().setLevel(level)
    pool = RayPool(
        RaySettings(address=options.address),
        min_samplers=options.min_samplers,
        max_samplers=options.max_samplers,
        threads=options.threads,
    )
    await RayProcess(channel, pool, drivers_here=options.drivers_here).run()
    channel.close()


def _let_pass(number: int, frame: FrameType | None) -> None:
    """Do nothing at a signal."""


def main() -> None:
    """Serve the gateway at the other end of the socket."""
    # The gateway says when this ends, after its drain. A handler, because an ignored signal would stay so in Ray's own
    # processes.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _let_pass)
    asyncio.run(_main(socket.socket(fileno=int(sys.argv[1]))))
    os._exit(0)  # Ray's threads may hang at the end of a process whose cluster is gone


if __name__ == "__main__":
    main()
