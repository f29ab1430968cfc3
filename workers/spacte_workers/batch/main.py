"""Runs the job of a folder in a process of its own: what Ray Jobs, and a gateway without Ray, start.

    python -m spacte_workers.batch.main FOLDER --attempt 1 --pool ray
    python -m spacte_workers.batch.main s3://bucket/spacte/jobs/JOB_ID --attempt 1 --pool ray

SIGTERM stops it between images. Exit code 0: every image is finished, or it was asked to stop; 1: it failed, and
`progress.json` says why.
"""

import argparse
import asyncio
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from spacte_workers.engine.precision_rule import MIN_AGREEMENT, PrecisionRule
from spacte_workers.errors import RuntimeFault
from spacte_workers.serving.device_shares import BATCH_SHARE

from .base_job import BaseResults, Recertification
from .chains import OUTCOMES
from .driven_folder import opened_folder
from .driver import Driver, named_params, pause
from .inputs import InputError
from .job_folder import JobFolder, JobFolderError, JobSpec, write_json
from .object_store import StorageError
from .progress import State, Throughput, snapshot
from .summary import export

if TYPE_CHECKING:
    from spacte_core.checkpoint import CheckpointConfig
    from spacte_workers.serving.pools import Pool
    from spacte_workers.serving.runtime import Runtime

_log = logging.getLogger(__name__)

PREDECESSOR_S = 90.0
"""How long to wait for the lock: Ray ends a driver whose cluster is gone after a minute."""

LOCK_EVERY_S, CANCEL_EVERY_S, PARENT_EVERY_S = 0.2, 0.5, 1.0
"""How often the lock is tried, and the `cancel` file and the parent process are looked at. Chosen: each look is one
system call, and nobody waits for longer than this."""

NICE_BESIDE_A_GATEWAY = 10
"""Of a driver that draws in its own threads while its parent answers requests. Chosen: a tenth of the parent's weight
(sched(7): a factor of 1.25 a step)."""

OnProgress = Callable[[dict[str, Any]], None]


def make_pool(
    kind: Literal["ray", "local"],
    address: str | None,
    samplers: int | None,
    *,
    at_least: int = 1,
    share: float = BATCH_SHARE,
) -> "Pool":
    """At most so many samplers, not started yet: threads of this process, or on the Ray at an address.

    On Ray, `at_least` so many are asked for even where there is no room, so that its autoscaler makes room, and each
    reserves a `share` of a device.
    """
    if kind == "local":
        from spacte_workers.serving.pools import LocalPool

        return LocalPool(samplers)
    from spacte_workers.cluster import RayPool, RaySettings

    return RayPool(RaySettings(address=address), min_samplers=at_least, max_samplers=samplers, share=share, yields=True)


async def run_folder(
    folder: JobFolder,
    pool: "Pool",
    *,
    attempt: int = 1,
    stop: asyncio.Event | None = None,
    on_progress: OnProgress | None = None,
    wait_s: float = PREDECESSOR_S,
    rule: PrecisionRule | None = None,
) -> State:
    """One attempt at a job: certify what its folder still lacks, and export what there is.

    Args:
        folder: of a job that has its `job.json`.
        pool: samplers that are not started yet.
        attempt: which driver of the job this is, from 1.
        stop: set it to stop between images; the folder's `cancel` file does the same.
        on_progress: called with the contents of `progress.json`.
        wait_s: how long to wait for another driver to release the lock.
        rule: what samplers may choose.

    Returns:
        `succeeded` when every image is finished; `cancelled` or `interrupted` when stopped.

    Raises:
        JobFolderError: there is no job, another driver is at work, or the model is another one by now.
        InputError: the input is not there any more.
        RuntimeFault: the model or the samplers cannot be used.
    """
    stop = stop or asyncio.Event()
    if not await asyncio.to_thread(folder.is_made):
        raise JobFolderError(f"{folder.path} holds no job: check the path.")
    cancelled = asyncio.create_task(_stop_when(folder.cancel_file.exists, CANCEL_EVERY_S, stop))
    try:
        with ExitStack() as lock:
            if not await _lock(lock, folder, stop, wait_s):
                return folder.stopped_state()  # the folder, and its progress.json, are another driver's
            try:
                await asyncio.to_thread(folder.fetch)
                state = await _certify(folder, folder.spec(), pool, attempt, stop, on_progress, rule)
            except (InputError, JobFolderError, RuntimeFault) as error:
                _report(folder, attempt, "failed", error)
                raise
            await asyncio.to_thread(export, folder)
    finally:
        cancelled.cancel()
    return state


async def _lock(lock: ExitStack, folder: JobFolder, stop: asyncio.Event, wait_s: float) -> bool:
    """Lock the folder for as long as `lock` is open; False where `stop` came while another driver had it.

    Raises:
        JobFolderError: another driver is still at work after `wait_s` seconds.
    """
    patience_ends = time.monotonic() + wait_s
    while True:
        try:
            lock.enter_context(folder.locked())
        except JobFolderError:
            if stop.is_set():
                return False
            if time.monotonic() >= patience_ends:
                raise
        else:
            return True
        await pause(stop, LOCK_EVERY_S)


async def _certify(
    folder: JobFolder,
    spec: JobSpec,
    pool: "Pool",
    attempt: int,
    stop: asyncio.Event,
    on_progress: OnProgress | None,
    rule: PrecisionRule | None,
) -> State:
    from spacte_workers.decoding import Decoders, open_isolated
    from spacte_workers.serving.runtime import Runtime

    pictures, inputs = Decoders(), Decoders()
    runtime = Runtime(
        spec.checkpoint,
        pool,
        precision=spec.precision,
        rule=rule,
        allow_client_seed=True,
        start_wait_s=math.inf,  # a busy cluster has room for us some day
        decode=pictures.image,
    )
    try:
        if not await _started(runtime, stop):
            return _report(folder, attempt, folder.stopped_state())
        spec, model = await asyncio.to_thread(_settle_model, runtime, folder, spec)
        recertification = await _recertification(folder, spec, runtime)
        shape = model.model.input_shape
        opening = asyncio.to_thread(open_isolated, spec.input, shape, inputs, class_names=model.class_names)
        with closing(await opening) as source:
            driver = Driver(
                folder,
                spec,
                source,
                runtime,
                input_shape=shape,
                samplers=lambda: runtime.pool_status().ready,
                recertification=recertification,
                attempt=attempt,
                on_progress=on_progress,
            )
            return await driver.run(stop)
    finally:
        pictures.close()
        inputs.close()
        await runtime.stop()


async def _started(runtime: "Runtime", stop: asyncio.Event) -> bool:
    """Start the samplers, which waits for a place on the cluster; False where `stop` came first."""
    starting = asyncio.create_task(runtime.start())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    started = starting.done()
    if not started:
        starting.cancel()
    with suppress(asyncio.CancelledError):
        await starting
    return started


async def _recertification(folder: JobFolder, spec: JobSpec, runtime: "Runtime") -> Recertification | None:
    """What carries the certificates of the base job over, with the old model loaded; None without a base job."""
    if spec.base is None:
        return None
    results = await asyncio.to_thread(BaseResults, spec.base, folder.base_file)
    recertification = Recertification(spec.base, results, runtime, named_params(spec), spec.seed_source)
    await recertification.start()
    return recertification


def _settle_model(runtime: "Runtime", folder: JobFolder, spec: JobSpec) -> tuple[JobSpec, "CheckpointConfig"]:
    """The spec with the precision that all attempts keep to, and what the model says of itself."""
    served = runtime.model(spec.model)
    if served.version != spec.model_version:
        raise JobFolderError(
            f"Model {spec.model} has changed since the job began: put the old checkpoint back into "
            f"{spec.checkpoint}, or begin a new job."
        )
    if spec.precision == "auto":
        spec = replace(spec, precision=served.precision)
        write_json(folder.spec_file, spec.to_json())
    return spec, served.config


def _report(folder: JobFolder, attempt: int, state: State, error: Exception | None = None) -> State:
    """Leave the state where the gateway looks for it; the counts are those of the last attempt."""
    before = folder.progress()
    counts = before.get("counts", {})
    done = {name: counts.get(name, 0) for name in OUTCOMES}
    code = "bad_input" if isinstance(error, InputError) else "failed"
    why = None if error is None else {"code": code, "detail": str(error)}
    total, now = counts.get("total") or 0, datetime.now(UTC)
    progress = snapshot(state, attempt, total, done, Throughput(), now, why)
    write_json(folder.progress_file, {**progress, "results_sha256": before.get("results_sha256")})
    return state


async def _stop_when(true: Callable[[], bool], every_s: float, stop: asyncio.Event) -> None:
    """Set `stop` once something holds."""
    while not stop.is_set():
        if true():
            stop.set()
        await pause(stop, every_s)


async def run(options: argparse.Namespace) -> int:
    """One attempt; gives the exit code."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    orphaned = None
    if options.with_parent:
        os.nice(NICE_BESIDE_A_GATEWAY)
        parent = os.getppid()
        orphaned = asyncio.create_task(_stop_when(lambda: os.getppid() != parent, PARENT_EVERY_S, stop))
    try:
        pool = make_pool(
            options.pool, options.address, options.samplers, at_least=options.at_least, share=options.share
        )
        rule = PrecisionRule(min_agreement=options.min_agreement, portable=options.portable)
        with opened_folder(options.folder, options.attempt) as folder:
            state = await run_folder(folder, pool, attempt=options.attempt, stop=stop, rule=rule)
    except (InputError, JobFolderError, RuntimeFault, StorageError) as error:
        _log.error("%s", error)
        return 1
    finally:
        if orphaned:
            orphaned.cancel()
    _log.info("The job is %s.", state)
    return 0


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description="Certify what a job's folder still lacks.")
    parser.add_argument("folder", help="path of the job's folder, or URL of the job in an object store")
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
    parser.add_argument("--portable", action="store_true", help="kernels that vote alike on every x86 processor")
    parser.add_argument("--with-parent", action="store_true", help="stop when the parent process is gone")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    sys.exit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
