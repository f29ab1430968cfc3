"""Makes store, cluster and job folders agree, again and again, whichever of them was away.

Each pass asks three things of a job: what the store says should be, what the runner says of the driver, and what the
driver says in its folder. Every change of state is a compare-and-set in the store, so several gateways may do this at
once.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

import structlog
from anyio import CapacityLimiter, to_thread

from spacte_service.metrics import Metrics
from spacte_service.settings import JobSettings, SamplerSettings
from spacte_service.storage_faults import storage_problem

from .checkpoints import delete_unused_checkpoints
from .data_folder import DataFolder, driver_command
from .remote_inputs import delete_unused_inputs
from .runner import DriverStatus, Runner, UnreachableError
from .service import next_attempt

if TYPE_CHECKING:
    from spacte_service.store import Store
    from spacte_service.store.schema import JobRow

log = structlog.stdlib.get_logger("spacte.jobs")

T = TypeVar("T")
A = TypeVarTuple("A")

PERIOD_S = 1.0  # between two passes; chosen: drivers write their progress about once a second
CLEAN_UP_S = 3600.0  # between two deletions of what is old; chosen: what is kept is kept for days
STOP_AFTER_S = 20.0  # a driver that was asked to stop and has not by then is ended; chosen: an image takes seconds
AWAY_S = 30.0  # a runner that is silent for so long has lost its drivers; chosen: a restarted head of Ray is quicker
STARTUP_S = 60.0  # a driver may import so long before it locks its folder; chosen: a busy machine takes less
DRIVER_DIED = "driver_died"
RESTART_AFTER_S = (1.0, 5.0, 30.0)  # a driver's death, by attempt; chosen: a machine out of memory gets time
MAX_ATTEMPTS = 10  # drivers of a job that nobody asked for; chosen: one that dies every time must not go on
CHECK_S = 3.0  # between two attempts to write; chosen: `/readyz` is right within seconds
THREADS = 4  # calls of store and folders at a time; chosen: jobs are looked at one after the other
MESSAGE_LENGTH = 300  # of a runner's message; chosen: a job's error stays a sentence

COUNTED = ("certified", "abstained", "errored")


@dataclass(eq=False)
class Reconciler:
    """Submits, follows, resumes and cleans up jobs; `database` and `data_folder` are `ok`, or say what is wrong."""

    _settings: JobSettings
    _samplers: SamplerSettings
    _store: "Store"
    _runner: Runner
    _folder: DataFolder
    _metrics: Metrics
    _threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(THREADS))
    _woken: asyncio.Event = field(default_factory=asyncio.Event)
    _away_since: float | None = None
    _cleaned: float = -CLEAN_UP_S
    _checked: float = -CHECK_S
    _written: str = "ok"
    database: str = "ok"
    data_folder: str = "ok"

    @property
    def stalled(self) -> bool:
        """Whether jobs stand still because store or data folder take no writes; they go on by themselves."""
        return self.database != "ok" or self.data_folder != "ok"

    def wake(self) -> None:
        """Start the next pass now: something has changed."""
        self._woken.set()

    async def run(self) -> None:
        """Make a pass about once a second, until cancelled."""
        while True:
            database, folder = await self._pass()
            if time.monotonic() - self._checked >= CHECK_S:
                self._written, self.data_folder = await self._tried(self._store), await self._tried(self._folder)
                self._checked = time.monotonic()
            self.database = self._written if database == "ok" else database
            self.data_folder = self.data_folder if folder == "ok" else folder
            with suppress(TimeoutError):
                async with asyncio.timeout(PERIOD_S):  # `wait_for` loses a cancellation that comes with the event
                    await self._woken.wait()
            self._woken.clear()

    async def _pass(self) -> tuple[str, str]:
        """One pass: of the database and of the data folder `ok`, or what is wrong."""
        try:
            await self.reconcile()
        except Exception as error:
            problem = storage_problem(error)
            if problem is None:
                log.exception("jobs could not be looked after")
                return "The store does not answer; see the log.", "ok"
            return ("ok", problem.detail) if isinstance(error, OSError) else (problem.detail, "ok")
        return "ok", "ok"

    async def _tried(self, part: "Store | DataFolder") -> str:
        """Whether something can be written: `ok`, or what is wrong."""
        try:
            await self._in_thread(part.check_writable)
        except Exception as error:
            problem = storage_problem(error)
            if problem is None:
                log.exception("nothing could be written")
            elif not self.stalled:
                log.warning("nothing can be written: jobs wait", reason=problem.detail)
            return "Nothing can be written; see the log." if problem is None else problem.detail
        return "ok"

    async def reconcile(self) -> None:
        """One pass over every job that is not at its end."""
        rows = await self._in_thread(self._store.jobs.active)
        free = self._settings.jobs_at_once - sum(map(_has_driver, rows))
        for row in rows:
            waits = row.state == "queued" and row.claimed_at is None
            if waits and free <= 0:
                continue
            free -= waits
            try:
                await self._reconcile(row)
            except Exception as error:
                if storage_problem(error) is not None:
                    raise  # not of this job alone: the pass says so in one sentence
                log.exception("a job could not be looked after", job=row.id)
        self._metrics.jobs_are(await self._in_thread(self._store.jobs.by_state))
        if time.monotonic() - self._cleaned > CLEAN_UP_S:
            self._cleaned = time.monotonic()
            await self._clean_up()

    async def _reconcile(self, row: "JobRow") -> None:
        await self._take_counts(row)
        try:
            status = await self._runner.status(row.submission_id)
            self._away_since = None
            match row.state:
                case "queued":
                    await self._queued(row, status)
                case "running":
                    await self._running(row, status)
                case "cancelling":
                    await self._cancelling(row, status)
                case _:
                    await self._interrupted(row)
        except UnreachableError as error:
            await self._while_away(row, error)

    async def _queued(self, row: "JobRow", status: DriverStatus | None) -> None:
        if status is None:
            if await self._in_thread(self._store.jobs.claim, row):
                await self._in_thread(self._folder.prepare, row)
                try:
                    command = driver_command(row, self._folder, self._settings, self._samplers)
                    await self._runner.submit(row.submission_id, command)
                except UnreachableError:
                    await self._in_thread(self._store.jobs.release, row)
                    raise
                log.info("job submitted", job=row.id, submission=row.submission_id)
        elif status.ended:
            await self._ended(row, status)
        elif status.stage == "running":
            await self._move(row, "running", started_at=_start(row))

    async def _running(self, row: "JobRow", status: DriverStatus | None) -> None:
        if status is None:
            await self._orphaned(row, "The cluster that ran the driver is gone.")
        elif status.ended:
            await self._ended(row, status)
        elif await self._outcome(row) == "succeeded":  # its process has only its samplers to put away
            await self._move(row, "succeeded")

    async def _cancelling(self, row: "JobRow", status: DriverStatus | None) -> None:
        if status is None or status.ended:
            if not await self._is_locked(row):
                done = await self._outcome(row) == "succeeded"
                await self._move(row, "succeeded" if done else "cancelled")
        elif _age(row) > STOP_AFTER_S:
            await self._runner.stop(row.submission_id)

    async def _interrupted(self, row: "JobRow") -> None:
        if row.error_code == DRIVER_DIED and _age(row) < RESTART_AFTER_S[min(row.attempt, len(RESTART_AFTER_S)) - 1]:
            return
        if self._settings.resume_jobs != "never" and row.attempt < MAX_ATTEMPTS:
            await self._move(row, "queued", **next_attempt(row))

    async def _ended(self, row: "JobRow", status: DriverStatus) -> None:
        """The driver's process is over: its folder says how it went."""
        if await self._is_locked(row):
            return  # another gateway's driver
        match await self._outcome(row):
            case "succeeded":
                await self._move(row, "succeeded", started_at=_start(row))
            case "cancelled":
                await self._move(row, "cancelled")
            case "interrupted":
                await self._move(row, "interrupted", error=("interrupted", "The driver was told to stop."))
            case "failed":
                error: dict[str, str] = (await self._take_counts(row))["error"]
                await self._move(row, "failed", error=(error["code"], error["detail"]))
            case _ if await self._is_whole(row):  # a driver of an earlier attempt came to the end of it
                await self._move(row, "succeeded", started_at=_start(row))
            case _:
                first_line = status.message.partition(", last available logs")[0].partition("\n")[0]
                reason = first_line[:MESSAGE_LENGTH] or status.stage
                sentence = f"The driver died ({reason}); resume the job to carry on."
                most = MAX_ATTEMPTS - 1 if self._settings.resume_jobs == "always" else self._settings.driver_restarts
                again = self._settings.resume_jobs != "never" and row.attempt <= most
                await self._move(row, "interrupted" if again else "failed", error=(DRIVER_DIED, sentence))

    async def _orphaned(self, row: "JobRow", sentence: str) -> None:
        """The runner knows nothing of the driver; while it holds its lock, it lives all the same."""
        if await self._is_locked(row):
            return
        outcome = await self._outcome(row)
        if outcome == "succeeded":
            await self._move(row, "succeeded")
        elif outcome is not None or _age(row) > STARTUP_S:
            await self._move(row, "interrupted", error=("cluster_lost", sentence))

    async def _while_away(self, row: "JobRow", error: UnreachableError) -> None:
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            log.warning("the cluster does not answer", reason=str(error)[:MESSAGE_LENGTH])
        if now - self._away_since > AWAY_S and row.state == "running":
            await self._orphaned(row, "The cluster does not answer.")

    async def _take_counts(self, row: "JobRow") -> dict[str, Any]:
        """Bring the counts in the row up to what the driver wrote last, and return that."""
        progress = await self._in_thread(self._folder.job(row.id).progress)
        counts = {name: progress.get("counts", {}).get(name, 0) for name in COUNTED}
        if sum(counts.values()) > row.done:
            pace = {name: progress[name] for name in ("images_per_minute", "eta_s")}
            if await self._in_thread(self._store.jobs.progress, row, counts, pace, progress.get("results_sha256")):
                self._metrics.job_images({name: counts[name] - getattr(row, name) for name in COUNTED})
                for name in COUNTED:  # the same pass may come here again
                    setattr(row, name, counts[name])
        return progress

    async def _outcome(self, row: "JobRow") -> str | None:
        """What the driver of this attempt wrote at its end, if it came to that."""
        progress = await self._take_counts(row)
        return progress["state"] if progress.get("attempt") == row.attempt else None

    async def _is_whole(self, row: "JobRow") -> bool:
        """Whether every image of the job is finished, whichever driver did it."""
        progress = await self._take_counts(row)
        return sum(progress.get("counts", {}).get(name, 0) for name in COUNTED) >= row.total

    async def _is_locked(self, row: "JobRow") -> bool:
        """Whether a driver works in the job's folder."""
        return await self._in_thread(self._folder.job(row.id).at_work)

    async def _move(self, row: "JobRow", to: str, **changes: Any) -> None:
        if await self._in_thread(partial(self._store.jobs.move, row, to, **changes)) is not None:
            log.info("job changed", job=row.id, before=row.state, state=to, attempt=row.attempt)
            self.wake()

    async def _clean_up(self) -> None:
        """Delete jobs that have been at their end for long, and copies that no job has any more."""
        before = datetime.now(UTC) - timedelta(days=self._settings.keep_jobs_days)
        for job_id in await self._in_thread(self._store.jobs.expired, before):
            if await self._in_thread(self._store.jobs.remove, job_id):
                await self._in_thread(self._folder.job(job_id).remove)
                log.info("job expired", job=job_id)
        used = self._folder.paths(await self._in_thread(self._store.jobs.checkpoints))
        for path in await self._in_thread(delete_unused_checkpoints, self._folder.checkpoints, used):
            log.info("checkpoint of past jobs deleted", checkpoint=path)
        for name in await self._in_thread(self._folder.delete_unused, self._folder.checkpoints, used):
            log.info("checkpoint of past jobs deleted from the storage", checkpoint=name)
        used = self._folder.paths(await self._in_thread(self._store.jobs.locations))
        for path in await self._in_thread(delete_unused_inputs, self._folder.fetched, used):
            log.info("input of past jobs deleted", input=path)
        for name in await self._in_thread(self._folder.delete_unused, self._folder.fetched, used):
            log.info("input of past jobs deleted from the storage", input=name)

        for name in await self._in_thread(self._folder.delete_copies, self._is_gone):
            log.info("copy of what the storage has deleted", copy=name)

    def _is_gone(self, job_id: str) -> bool:
        return self._store.jobs.get(job_id) is None

    async def _in_thread(self, function: Callable[[*A], T], *arguments: *A) -> T:
        call = asyncio.ensure_future(to_thread.run_sync(function, *arguments, limiter=self._threads))
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            await asyncio.wait({call})  # else the store would be closed below it
            raise


def _has_driver(row: "JobRow") -> bool:
    """Whether a job has a driver, or is about to have one."""
    return row.state in ("running", "cancelling") or (row.state == "queued" and row.claimed_at is not None)


def _start(row: "JobRow") -> datetime:
    """When the job started; now, where that was not seen."""
    return row.started_at or datetime.now(UTC)


def _age(row: "JobRow") -> float:
    """Seconds since the job came to its state; where the clock was set back since then, by how much."""
    return abs((datetime.now(UTC) - row.changed_at).total_seconds())
