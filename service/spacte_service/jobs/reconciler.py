"""Brings store, cluster and job folders together, again and again, whichever of them was away.

Each look at a job asks three things: what the store says should be, what the runner says of the driver, and what the
driver says in its folder. Every change of state is a compare-and-set in the store, so several gateways may do this at
once.
"""

import asyncio
import shutil
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from anyio import CapacityLimiter, to_thread

from spacte_service.settings import Settings

from .checkpoints import give_up_checkpoints
from .remote_inputs import give_up_inputs
from .runner import Runner, Seen, UnreachableError
from .service import next_attempt
from .storage import Workplace

if TYPE_CHECKING:
    from spacte_service.store import Store
    from spacte_service.store.schema import JobRow

log = structlog.stdlib.get_logger("spacte.jobs")

T = TypeVar("T")

TICK_S = 1.0
HOUSEKEEPING_S = 3600.0

STOP_AFTER_S = 20.0
"""A driver that was asked to stop and has not by then is ended."""

AWAY_S = 30.0
"""A runner that does not answer for so long has lost its drivers, unless one holds its folder's lock."""

BEGINNING_S = 60.0
"""A driver may take so long to import what it needs, before it holds its folder's lock and says anything."""

MAX_ATTEMPTS = 10
"""Drivers of one job that are started without anyone asking."""

COUNTED = ("certified", "abstained", "errored")


class Reconciler:
    """Submits, follows, resumes and cleans up jobs.

    Args:
        settings: the gateway's.
        store: what should be.
        runner: what runs.
        workplace: the job folders.
        on_counts: told how many jobs are in each state, about once a second.
        on_images: told how many more images have come to each outcome.
    """

    def __init__(
        self,
        settings: Settings,
        store: "Store",
        runner: Runner,
        workplace: Workplace,
        *,
        on_counts: Callable[[Mapping[str, int]], None],
        on_images: Callable[[Mapping[str, int]], None],
    ) -> None:
        self._settings = settings
        self._store = store
        self._runner = runner
        self._workplace = workplace
        self._on_counts = on_counts
        self._on_images = on_images
        self._threads = CapacityLimiter(4)
        self._kicked = asyncio.Event()
        self._away_since: float | None = None
        self._cleaned = -HOUSEKEEPING_S
        self.database = "ok"
        """`ok`, or a sentence on what is wrong with the store."""

    def kick(self) -> None:
        """Look now: something has changed."""
        self._kicked.set()

    async def run(self) -> None:
        """Look about once a second, until cancelled."""
        while True:
            try:
                await self.look()
                self.database = "ok"
            except Exception:
                self.database = "The store does not answer; see the log."
                log.exception("jobs could not be looked after")
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):  # `wait_for` loses a cancellation that comes with the kick
                    await self._kicked.wait()
            self._kicked.clear()

    async def look(self) -> None:
        """One look at every job that is not at its end."""
        rows = await self._in_thread(self._store.jobs.active)
        free = self._settings.jobs_at_once - sum(map(_takes_a_place, rows))
        for row in rows:
            waits = row.state == "queued" and row.claimed_at is None
            if waits and free <= 0:
                continue
            free -= waits
            try:
                await self._look_at(row)
            except Exception:
                log.exception("a job could not be looked after", job=row.id)
        self._on_counts(await self._in_thread(self._store.jobs.by_state))
        if time.monotonic() - self._cleaned > HOUSEKEEPING_S:
            self._cleaned = time.monotonic()
            await self._clean_up()

    async def _look_at(self, row: "JobRow") -> None:
        await self._take_counts(row)
        try:
            seen = await self._runner.look(row.submission_id)
            self._away_since = None
            await self._handle(row, seen)
        except UnreachableError as error:
            await self._while_away(row, error)

    async def _handle(self, row: "JobRow", seen: Seen | None) -> None:
        steps: dict[str, Callable[[JobRow, Seen | None], Coroutine[Any, Any, None]]] = {
            "queued": self._queued,
            "running": self._running,
            "cancelling": self._cancelling,
            "interrupted": self._interrupted,
        }
        await steps[row.state](row, seen)

    async def _queued(self, row: "JobRow", seen: Seen | None) -> None:
        if seen is None:
            if await self._in_thread(self._store.jobs.claim, row):
                await self._in_thread(self._workplace.prepare, row)
                try:
                    await self._runner.submit(row.submission_id, self._workplace.command(row))
                except UnreachableError:
                    await self._in_thread(self._store.jobs.release, row)
                    raise
                log.info("job submitted", job=row.id, submission=row.submission_id)
        elif seen.ended:
            await self._ended(row, seen)
        elif seen.stage == "running":
            await self._move(row, "running", started_at=row.started_at or datetime.now(UTC))

    async def _running(self, row: "JobRow", seen: Seen | None) -> None:
        if seen is None:
            await self._orphaned(row, "The cluster that ran the driver is gone.")
        elif seen.ended:
            await self._ended(row, seen)
        elif await self._last_word(row) == "succeeded":  # its process has only its samplers to put away
            await self._move(row, "succeeded")

    async def _cancelling(self, row: "JobRow", seen: Seen | None) -> None:
        if seen is None or seen.ended:
            if not await self._at_work(row):
                done = await self._last_word(row) == "succeeded"
                await self._move(row, "succeeded" if done else "cancelled")
        elif _age(row) > STOP_AFTER_S:
            await self._runner.stop(row.submission_id)

    async def _interrupted(self, row: "JobRow", _: Seen | None) -> None:
        if self._settings.resume_jobs != "never" and row.attempt < MAX_ATTEMPTS:
            await self._move(row, "queued", **next_attempt(row))

    async def _ended(self, row: "JobRow", seen: Seen) -> None:
        """The driver's process is over: its folder says how it went."""
        if await self._at_work(row):
            return  # another gateway's driver
        match await self._last_word(row):
            case "succeeded":
                await self._move(row, "succeeded", started_at=row.started_at or datetime.now(UTC))
            case "cancelled":
                await self._move(row, "cancelled")
            case "interrupted":
                await self._move(row, "interrupted", error=("interrupted", "The driver was told to stop."))
            case "failed":
                progress = await self._in_thread(self._workplace.folder(row.id).progress)
                error: dict[str, str] = progress["error"]
                await self._move(row, "failed", error=(error["code"], error["detail"]))
            case _ if await self._is_whole(row):  # a driver of an earlier attempt came to the end of it
                await self._move(row, "succeeded", started_at=row.started_at or datetime.now(UTC))
            case _:
                reason = seen.message.partition(", last available logs")[0].partition("\n")[0][:300]
                sentence = f"The driver died ({reason or seen.stage}); resume the job to carry on."
                again = self._settings.resume_jobs == "always" and row.attempt < MAX_ATTEMPTS
                await self._move(row, "interrupted" if again else "failed", error=("driver_died", sentence))

    async def _orphaned(self, row: "JobRow", sentence: str) -> None:
        """The runner knows nothing of the driver; as long as it holds its lock, it lives all the same."""
        if await self._at_work(row):
            return
        word = await self._last_word(row)
        if word == "succeeded":
            await self._move(row, "succeeded")
        elif word is not None or _age(row) > BEGINNING_S:
            await self._move(row, "interrupted", error=("cluster_lost", sentence))

    async def _while_away(self, row: "JobRow", error: UnreachableError) -> None:
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            log.warning("the cluster does not answer", reason=str(error)[:300])
        if now - self._away_since > AWAY_S and row.state == "running":
            await self._orphaned(row, "The cluster does not answer.")

    async def _take_counts(self, row: "JobRow") -> None:
        """Bring the counts in the row up to what the driver wrote last."""
        progress = await self._in_thread(self._workplace.folder(row.id).progress)
        counts = {name: progress.get("counts", {}).get(name, 0) for name in COUNTED}
        if sum(counts.values()) <= row.done:
            return
        pace = {name: progress[name] for name in ("images_per_minute", "eta_s")}
        if await self._in_thread(self._store.jobs.progress, row, counts, pace):
            self._on_images({name: counts[name] - getattr(row, name) for name in COUNTED})
            for name in COUNTED:  # the same look may come here again
                setattr(row, name, counts[name])

    async def _last_word(self, row: "JobRow") -> str | None:
        """What the driver of this attempt said at its end, if it came to that."""
        progress = await self._in_thread(self._workplace.folder(row.id).progress)
        if progress.get("attempt") != row.attempt:
            return None
        await self._take_counts(row)
        return progress["state"]

    async def _is_whole(self, row: "JobRow") -> bool:
        """Whether every image of the job is finished, whichever driver did it."""
        await self._take_counts(row)
        progress = await self._in_thread(self._workplace.folder(row.id).progress)
        return sum(progress.get("counts", {}).get(name, 0) for name in COUNTED) >= row.total

    async def _at_work(self, row: "JobRow") -> bool:
        return await self._in_thread(self._workplace.folder(row.id).at_work)

    async def _move(self, row: "JobRow", to: str, **changes: Any) -> None:
        if await self._in_thread(partial(self._store.jobs.move, row, to, **changes)) is not None:
            log.info("job changed", job=row.id, before=row.state, state=to, attempt=row.attempt)
            self.kick()

    async def _clean_up(self) -> None:
        """Delete jobs that have been at their end for long, and copies that no job has any more."""
        before = datetime.now(UTC) - timedelta(days=self._settings.keep_jobs_days)
        for job_id in await self._in_thread(self._store.jobs.expired, before):
            if await self._in_thread(self._store.jobs.remove, job_id):
                folder = self._workplace.folder(job_id).path
                await self._in_thread(partial(shutil.rmtree, folder, ignore_errors=True))
                log.info("job expired", job=job_id)
        used = await self._in_thread(self._store.jobs.checkpoints)
        for place in await self._in_thread(give_up_checkpoints, self._workplace.checkpoints, used):
            log.info("checkpoint of past jobs deleted", checkpoint=place)
        used = await self._in_thread(self._store.jobs.locations)
        for place in await self._in_thread(give_up_inputs, self._workplace.fetched, used):
            log.info("input of past jobs deleted", input=place)

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        return await to_thread.run_sync(function, *arguments, limiter=self._threads)


def _takes_a_place(row: "JobRow") -> bool:
    """Whether a job has a driver, or is about to have one."""
    return row.state in ("running", "cancelling") or (row.state == "queued" and row.claimed_at is not None)


def _age(row: "JobRow") -> float:
    """Seconds since the job came to its state."""
    return (datetime.now(UTC) - row.changed_at).total_seconds()
