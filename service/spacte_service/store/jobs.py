"""Rows of jobs and their events. Every change of state is a compare-and-set, so that gateways agree."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, not_, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from spacte_client.types import TERMINAL_STATES
from spacte_service.quotas import QuotaReachedError

from .idempotency import Claim
from .schema import CODE_LENGTH, DETAIL_LENGTH, EventRow, FileRow, JobRow
from .sessions import Table, lock, of, page_of

CLAIM = timedelta(seconds=30)
"""A gateway that claimed a job has so long to submit it. Chosen: above the 20 s that the runner waits for Ray."""


class FileGoneError(Exception):
    """The job's file was deleted before the job was in the store."""


class Jobs(Table):
    """The tables of jobs and events."""

    def add(
        self,
        row: JobRow,
        claim: Claim | None = None,
        answer: dict[str, Any] | None = None,
        *,
        most_active: int | None = None,
    ) -> None:
        """Store a job, and with it the answer to its idempotent request.

        Raises:
            FileGoneError: its file is not there any more.
            InProgressError: another gateway has taken over the request.
            QuotaReachedError: its caller has `most_active` jobs that are not at their end.
        """
        try:
            with self._writing() as session:
                _check_active(session, row.caller, most_active)
                if row.file_id is not None:
                    # Kept from being deleted until this transaction is over.
                    here = select(FileRow.id).where(FileRow.id == row.file_id).with_for_update(key_share=True)
                    if session.scalar(here) is None:
                        raise FileGoneError(row.file_id)
                session.add(row)
                session.flush()
                _add_event(session, row.id, 0, "state", _state_event(row.state, row.changed_at), row.changed_at)
                if claim is not None:
                    claim.keep(session, answer or {})
        except IntegrityError as error:
            raise FileGoneError(row.file_id) from error

    def get(self, job_id: str, owners: Collection[str] | None = None) -> JobRow | None:
        """One job of these owners, or None."""
        with self._reading() as session:
            return session.scalars(select(JobRow).where(JobRow.id == job_id, *of(JobRow, owners))).one_or_none()

    def page(
        self, limit: int, after: str | None, states: Collection[str] | None, owners: Collection[str] | None = None
    ) -> tuple[Sequence[JobRow], bool]:
        """Jobs, newest first, and whether there are more. Raises CursorError: there is no job `after`."""
        which = [] if states is None else [JobRow.state.in_(states)]
        with self._reading() as session:
            return page_of(session, JobRow, limit, after, owners, *which)

    def active(self) -> Sequence[JobRow]:
        """Jobs that are not at their end, oldest first."""
        query = select(JobRow).where(JobRow.state.not_in(TERMINAL_STATES)).order_by(JobRow.number)
        with self._reading() as session:
            return session.scalars(query).all()

    def move(
        self,
        row: JobRow,
        to: str,
        *,
        error: tuple[str, str] | None = None,
        most_active: int | None = None,
        **changes: Any,
    ) -> JobRow | None:
        """Change a job's state from the one in `row`, as it was read; None where another gateway was first.

        `error` is code and sentence, and cleared otherwise; `changes` are other columns.
        Raises QuotaReachedError: its caller has `most_active` jobs that are not at their end.
        """
        now = datetime.now(UTC)
        code, detail = (None, None) if error is None else (_text(error[0], CODE_LENGTH), _text(error[1], DETAIL_LENGTH))
        ended = now if to in TERMINAL_STATES else None
        values = {"state": to, "changed_at": now, "ended_at": ended, "error_code": code, "error_detail": detail}
        with self._writing() as session:
            _check_active(session, row.caller, most_active)
            changed = session.scalars(
                update(JobRow)
                .where(JobRow.id == row.id, JobRow.state == row.state, JobRow.attempt == row.attempt)
                .values(**(values | changes), seq=JobRow.seq + 1)
                .returning(JobRow),
                execution_options={"synchronize_session": False},
            ).one_or_none()
            if changed is not None:
                data = _state_event(to, now, code, detail)
                _add_event(session, row.id, changed.seq, "state", data, now)
            return changed

    def claim(self, row: JobRow) -> bool:
        """Reserve a queued job for submission, for `CLAIM`; False where another gateway has.

        A claim of the future is one from before the clock was set back, and holds no longer.
        """
        now = datetime.now(UTC)
        held = JobRow.claimed_at.between(now - CLAIM, now + CLAIM)
        free = or_(JobRow.claimed_at.is_(None), not_(held))
        mine = (JobRow.id == row.id, JobRow.attempt == row.attempt, JobRow.state == "queued", free)
        with self._writing() as session:
            claimed = update(JobRow).where(*mine).values(claimed_at=now).returning(JobRow.id)
            return session.scalar(claimed) is not None

    def release(self, row: JobRow) -> None:
        """Give a claim back: the job could not be submitted now."""
        mine = (JobRow.id == row.id, JobRow.attempt == row.attempt, JobRow.state == "queued")
        with self._writing() as session:
            session.execute(update(JobRow).where(*mine).values(claimed_at=None))

    def progress(
        self, row: JobRow, counts: dict[str, int], pace: dict[str, float | None], sha256: str | None = None
    ) -> bool:
        """Record that more images are finished, the last with this hash; False where that was known already."""
        now = datetime.now(UTC)
        done = counts["certified"] + counts["abstained"] + counts["errored"]
        known = JobRow.certified + JobRow.abstained + JobRow.errored
        with self._writing() as session:
            seq = session.scalar(
                update(JobRow)
                .where(JobRow.id == row.id, JobRow.state.not_in(TERMINAL_STATES), known < done)
                .values(**counts, results_sha256=sha256, seq=JobRow.seq + 1)
                .returning(JobRow.seq)
            )
            if seq is None:
                return False
            full = {"total": row.total, **counts, "remaining": row.total - done}
            _add_event(session, row.id, seq, "progress", {"counts": full, **pace}, now)
            old = (EventRow.job_id == row.id, EventRow.event == "progress", EventRow.seq < seq)
            session.execute(delete(EventRow).where(*old))
            return True

    def expired(self, before: datetime) -> Sequence[str]:
        """Jobs that came to their end before a time."""
        query = select(JobRow.id).where(JobRow.state.in_(TERMINAL_STATES), JobRow.ended_at < before)
        with self._reading() as session:
            return session.scalars(query).all()

    def events(self, job_id: str, after: int) -> Sequence[EventRow]:
        """Events with a sequence number above `after`, in order."""
        query = select(EventRow).where(EventRow.job_id == job_id, EventRow.seq > after).order_by(EventRow.seq)
        with self._reading() as session:
            return session.scalars(query).all()

    def remove(self, job_id: str, owners: Collection[str] | None = None) -> bool:
        """Delete a job of these owners that is at its end, with its events."""
        with self._writing() as session:
            ended = (JobRow.id == job_id, JobRow.state.in_(TERMINAL_STATES), *of(JobRow, owners))
            return session.scalar(delete(JobRow).where(*ended).returning(JobRow.id)) is not None

    def checkpoints(self) -> set[str]:
        """The checkpoints of all jobs, and of their base jobs."""
        with self._reading() as session:
            own = set(session.scalars(select(JobRow.checkpoint).distinct()))
            bases = session.scalars(select(JobRow.base).where(JobRow.base.is_not(None)))
            return own | {base["checkpoint"] for base in bases if base}

    def locations(self) -> set[str]:
        """Where the inputs of all jobs are."""
        with self._reading() as session:
            return {source["location"] for source in session.scalars(select(JobRow.source))}

    def by_state(self) -> dict[str, int]:
        """How many jobs are in each state."""
        with self._reading() as session:
            found = session.execute(select(JobRow.state, func.count()).group_by(JobRow.state))
            return {row[0]: row[1] for row in found}


def _check_active(session: Session, caller: str, most: int | None) -> None:
    """See that a caller may have one more job that is not at its end. Raises QuotaReachedError."""
    if most is None:
        return
    lock(session, caller)
    active = select(func.count()).where(JobRow.caller == caller, JobRow.state.not_in(TERMINAL_STATES))
    if (session.scalar(active) or 0) >= most:
        raise QuotaReachedError("jobs", most)


def _text(text: str, most: int) -> str:
    """What a column takes of a driver's words."""
    return text.replace("\0", "")[:most]


def _state_event(state: str, at: datetime, code: str | None = None, detail: str | None = None) -> dict[str, Any]:
    error = None if code is None else {"code": code, "detail": detail}
    return {"state": state, "at": at.isoformat(), "error": error}


def _add_event(session: Session, job_id: str, seq: int, event: str, data: dict[str, Any], at: datetime) -> None:
    session.add(EventRow(job_id=job_id, seq=seq, event=event, data=data, at=at))
