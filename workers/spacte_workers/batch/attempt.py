"""One attempt at a job, from its folder: lock, samplers, model, input, driver, exports."""

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from spacte_workers.engine.precision import PrecisionRule
from spacte_workers.errors import RuntimeFault

from .driver import Driver
from .inputs import InputError, open_source
from .job_folder import JobFolder, JobFolderError, JobSpec, write_json
from .progress import Pace, State, snapshot
from .summary import export

if TYPE_CHECKING:
    from spacte_workers.serving.pools import Pool
    from spacte_workers.serving.runtime import Runtime

PREDECESSOR_S = 90.0
"""How long to wait for the lock: Ray ends a driver whose cluster is gone after a minute."""

LOOK_S = 0.5
KNOCK_S = 0.2

OnProgress = Callable[[dict[str, Any]], None]


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
    """Certify what a job's folder still lacks, and export what there is.

    Args:
        folder: of a job that has its `job.json`.
        pool: samplers that are not started yet.
        attempt: which driver of the job this is, from 1.
        stop: set it to stop between images; the folder's `cancel` file does the same.
        on_progress: called with the contents of `progress.json`.
        wait_s: how long to wait for another driver to let go.
        rule: what samplers may choose.

    Returns:
        `succeeded` when every image is finished; `cancelled` or `interrupted` when stopped.

    Raises:
        JobFolderError: there is no job, another driver is at work, or the model is another one by now.
        InputError: the input is not there any more.
        RuntimeFault: the model or the samplers cannot be used.
    """
    stop = stop or asyncio.Event()
    spec = folder.spec()
    watch = asyncio.create_task(_watch_cancel(folder, stop))
    try:
        with ExitStack() as alone:
            if not await _lock(alone, folder, stop, wait_s):
                return _stopped(folder)  # unsaid: the folder is another driver's
            try:
                state = await _certify(folder, spec, pool, attempt, stop, on_progress, rule)
            except (InputError, JobFolderError, RuntimeFault) as error:
                _say(folder, attempt, "failed", error)
                raise
            await asyncio.to_thread(export, folder)
    finally:
        watch.cancel()
    return state


async def _lock(alone: ExitStack, folder: JobFolder, stop: asyncio.Event, wait_s: float) -> bool:
    """Lock the folder for as long as `alone` is open; False where `stop` came while another driver had it.

    Raises:
        JobFolderError: another driver is still at work after `wait_s` seconds.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            alone.enter_context(folder.locked())
        except JobFolderError:
            if stop.is_set():
                return False
            if time.monotonic() >= deadline:
                raise
        else:
            return True
        with suppress(TimeoutError):
            async with asyncio.timeout(KNOCK_S):
                await stop.wait()


async def _certify(
    folder: JobFolder,
    spec: JobSpec,
    pool: "Pool",
    attempt: int,
    stop: asyncio.Event,
    on_progress: OnProgress | None,
    rule: PrecisionRule | None,
) -> State:
    from spacte_workers.serving.runtime import Runtime

    runtime = Runtime(
        spec.checkpoint,
        pool,
        precision=spec.precision,
        rule=rule,
        allow_client_seed=True,
        start_wait_s=math.inf,  # a busy cluster has room for us some day
    )
    try:
        if not await _started(runtime, stop):
            return _say(folder, attempt, _stopped(folder))
        spec, shape = await asyncio.to_thread(_settle_model, runtime, folder, spec)
        source = await asyncio.to_thread(open_source, spec.input, shape)
        try:
            driver = Driver(
                folder,
                spec,
                source,
                runtime,
                input_shape=shape,
                samplers=lambda: runtime.pool_status().ready,
                attempt=attempt,
                on_progress=on_progress,
            )
            return await driver.run(stop)
        finally:
            source.close()
    finally:
        await runtime.stop()


async def _started(runtime: "Runtime", stop: asyncio.Event) -> bool:
    """Start the samplers, which waits for a place on the cluster; False where `stop` came first."""
    starting = asyncio.create_task(runtime.start())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not starting.done():
        starting.cancel()
        with suppress(asyncio.CancelledError):
            await starting
        return False
    await starting
    return True


def _settle_model(runtime: "Runtime", folder: JobFolder, spec: JobSpec) -> tuple[JobSpec, tuple[int, int, int]]:
    """The spec with the precision that all attempts keep to, and the model's input shape."""
    served = runtime.model(spec.model)
    if served.version != spec.model_version:
        raise JobFolderError(
            f"Model {spec.model} has changed since the job began: put the old checkpoint back into "
            f"{spec.checkpoint}, or begin a new job."
        )
    if spec.precision == "auto":
        spec = replace(spec, precision=served.precision)
        write_json(folder.spec_file, spec.to_json())
    channels, height, width = served.config.model.input_shape
    return spec, (channels, height, width)


def _stopped(folder: JobFolder) -> State:
    return "cancelled" if folder.cancel_file.exists() else "interrupted"


async def _watch_cancel(folder: JobFolder, stop: asyncio.Event) -> None:
    while not stop.is_set():
        if folder.cancel_file.exists():
            stop.set()
        await asyncio.sleep(LOOK_S)


def _say(folder: JobFolder, attempt: int, state: State, error: Exception | None = None) -> State:
    """Leave the state where the gateway looks for it; the counts are those of the last attempt."""
    counts = folder.progress().get("counts", {})
    done = {name: counts.get(name, 0) for name in ("certified", "abstained", "errored")}
    why = None
    if error is not None:
        why = {"code": "bad_input" if isinstance(error, InputError) else "failed", "detail": str(error)}
    now = datetime.now(UTC)
    write_json(folder.progress_file, snapshot(state, attempt, counts.get("total") or 0, done, Pace(), now, why))
    return state
