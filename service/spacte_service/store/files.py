"""Rows of uploaded files."""

from collections.abc import Callable, Sequence

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from spacte_client.types import TERMINAL_STATES

from .schema import FileRow, JobRow
from .sessions import Table, page_of


class FileInUseError(Exception):
    """A job that is not at its end reads the file; the argument is its id."""


class Files(Table):
    """The table of files."""

    def add(self, row: FileRow) -> FileRow:
        """Add a file; where the same bytes are there already, give the row that has them."""
        try:
            with self._writing() as session:
                session.add(row)
        except IntegrityError:
            with self._reading() as session:
                there = session.scalars(select(FileRow).where(FileRow.sha256 == row.sha256)).one_or_none()
            if there is None:
                raise
            return there
        return row

    def get(self, file_id: str) -> FileRow | None:
        """One file, or None."""
        with self._reading() as session:
            return session.scalars(select(FileRow).where(FileRow.id == file_id)).one_or_none()

    def page(self, limit: int, after: str | None) -> tuple[Sequence[FileRow], bool]:
        """Files, newest first, and whether there are more. Raises CursorError: there is no file `after`."""
        with self._reading() as session:
            return page_of(session, FileRow, limit, after)

    def remove(self, file_id: str, unlink: Callable[[FileRow], None]) -> FileRow | None:
        """Delete a row and give it back; None where there is none.

        `unlink` deletes the file itself, before anyone can store the same bytes anew.
        Raises FileInUseError: a job needs the file.
        """
        with self._writing() as session:
            # Locked first, so that no job can come to refer to it between the question and the deletion.
            row = session.scalars(select(FileRow).where(FileRow.id == file_id).with_for_update()).one_or_none()
            if row is None:
                return None
            using = select(JobRow.id).where(JobRow.file_id == file_id, JobRow.state.not_in(TERMINAL_STATES)).limit(1)
            job = session.scalar(using)
            if job is not None:
                raise FileInUseError(job)
            session.delete(row)
            session.flush()
            unlink(row)
            return row
