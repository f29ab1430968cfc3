"""Rows of uploaded files."""

from collections.abc import Callable, Collection, Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from spacte_client.types import TERMINAL_STATES
from spacte_service.quotas import QuotaReachedError

from .schema import FileRow, JobRow
from .sessions import Table, lock, of, page_of


class FileInUseError(Exception):
    """A job that is not at its end reads the file; the argument is its id."""


class Files(Table):
    """The table of files."""

    def add(self, row: FileRow, most_bytes: int | None = None) -> FileRow:
        """Add a file; where its owner has the same bytes already, give the row that has them.

        Raises QuotaReachedError: the caller's files would have more than `most_bytes`.
        """
        with self._writing() as session:
            lock(session, row.sha256)
            same = select(FileRow).where(FileRow.owner == row.owner, FileRow.sha256 == row.sha256)
            there = session.scalars(same).one_or_none()
            if there is not None:
                return there
            if most_bytes is not None:
                lock(session, row.caller)
                if _bytes_of(session, row.caller) + row.bytes > most_bytes:
                    raise QuotaReachedError("upload_bytes", most_bytes)
            session.add(row)
        return row

    def bytes_of(self, caller: str) -> int:
        """Bytes of the files that a caller uploaded."""
        with self._reading() as session:
            return _bytes_of(session, caller)

    def get(self, file_id: str, owners: Collection[str] | None = None) -> FileRow | None:
        """One file of these owners, or None."""
        with self._reading() as session:
            return session.scalars(select(FileRow).where(FileRow.id == file_id, *of(FileRow, owners))).one_or_none()

    def page(
        self, limit: int, after: str | None, owners: Collection[str] | None = None
    ) -> tuple[Sequence[FileRow], bool]:
        """Files, newest first, and whether there are more. Raises CursorError: there is no file `after`."""
        with self._reading() as session:
            return page_of(session, FileRow, limit, after, owners)

    def remove(
        self, file_id: str, unlink: Callable[[FileRow], None], owners: Collection[str] | None = None
    ) -> FileRow | None:
        """Delete a row of these owners and give it back; None where there is none.

        `unlink` deletes the bytes, where no other owner has them, before anyone can store the same ones anew.
        Raises FileInUseError: a job needs the file.
        """
        with self._writing() as session:
            here = select(FileRow).where(FileRow.id == file_id, *of(FileRow, owners))
            sha256 = session.scalar(here.with_only_columns(FileRow.sha256))
            if sha256 is None:
                return None
            lock(session, sha256)
            # Locked first, so that no job can come to refer to it between the question and the deletion.
            row = session.scalars(here.with_for_update()).one_or_none()
            if row is None:
                return None
            using = select(JobRow.id).where(JobRow.file_id == file_id, JobRow.state.not_in(TERMINAL_STATES)).limit(1)
            job = session.scalar(using)
            if job is not None:
                raise FileInUseError(job)
            session.delete(row)
            session.flush()
            if session.scalar(select(func.count()).where(FileRow.sha256 == sha256)) == 0:
                unlink(row)
            return row


def _bytes_of(session: Session, caller: str) -> int:
    return int(session.scalar(select(func.coalesce(func.sum(FileRow.bytes), 0)).where(FileRow.caller == caller)) or 0)
