"""Runs the job of a folder in a process of its own: what Ray Jobs, and a gateway without Ray, start.

    python -m spacte_workers.batch.main FOLDER --attempt 1 --pool ray

SIGTERM stops it between images. Exit code 0: every image is finished, or it was asked to stop; 1: it failed,
and `progress.json` says why.
"""

import argparse
import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from spacte_workers.engine.precision import MIN_AGREEMENT, PrecisionRule
from spacte_workers.errors import RuntimeFault
from spacte_workers.serving.device_shares import BATCH_SHARE

from .attempt import run_folder
from .inputs import InputError
from .job_folder import JobFolder, JobFolderError

if TYPE_CHECKING:
    from spacte_workers.serving.pools import Pool

_log = logging.getLogger(__name__)

PARENT_EVERY_S = 1.0

BESIDE_A_GATEWAY = 10
"""Nice value of a driver that draws in its own threads while its parent answers requests."""


def make_pool(
    kind: Literal["ray", "local"],
    address: str | None,
    samplers: int | None,
    *,
    at_least: int = 1,
    share: float = BATCH_SHARE,
) -> "Pool":
    """Samplers that are not started yet.

    Args:
        kind: on Ray, or threads of this process.
        address: of the Ray cluster; default `RAY_ADDRESS`, else a local Ray.
        samplers: at most so many.
        at_least: on Ray, ask for so many even where there is no room, so that its autoscaler makes room.
        share: part of a device that a sampler on Ray reserves.
    """
    if kind == "local":
        from spacte_workers.serving.pools import LocalPool

        return LocalPool(samplers)
    from spacte_workers.cluster import RayPool, RaySettings

    return RayPool(RaySettings(address=address), min_samplers=at_least, max_samplers=samplers, share=share, yields=True)


async def run(arguments: argparse.Namespace) -> int:
    """One attempt; gives the exit code."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    watch = None
    if arguments.with_parent:
        os.nice(BESIDE_A_GATEWAY)
        watch = asyncio.create_task(_watch_parent(stop))
    try:
        pool = make_pool(
            arguments.pool, arguments.address, arguments.samplers, at_least=arguments.at_least, share=arguments.share
        )
        state = await run_folder(
            JobFolder(arguments.folder),
            pool,
            attempt=arguments.attempt,
            stop=stop,
            rule=PrecisionRule(min_agreement=arguments.min_agreement),
        )
    except (InputError, JobFolderError, RuntimeFault) as error:
        _log.error("%s", error)
        return 1
    finally:
        if watch:
            watch.cancel()
    _log.info("The job is %s.", state)
    return 0


async def _watch_parent(stop: asyncio.Event) -> None:
    """Stop when the process that started this one is gone."""
    parent = os.getppid()
    while os.getppid() == parent and not stop.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(PARENT_EVERY_S):
                await stop.wait()
    stop.set()


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description="Certify what a job's folder still lacks.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--attempt", type=int, default=1, help="which driver of the job this is")
    parser.add_argument("--pool", choices=("ray", "local"), default="ray", help="where the noises are drawn")
    parser.add_argument("--address", help="of the Ray cluster; default RAY_ADDRESS, else a local Ray")
    parser.add_argument("--samplers", type=int, help="at most so many")
    parser.add_argument("--at-least", type=int, default=1, help="samplers to ask the cluster for in any case")
    parser.add_argument("--share", type=float, default=BATCH_SHARE, help="part of a device that a sampler reserves")
    parser.add_argument(
        "--min-agreement",
        type=float,
        default=MIN_AGREEMENT,
        help="share of noisy images on which the job's precision must vote as float32 does",
    )
    parser.add_argument("--with-parent", action="store_true", help="stop when the parent process is gone")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    sys.exit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
