"""Transactions of the store's tables, and pages of their rows."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from .schema import FileRow, JobRow

Sessions = Callable[[], AbstractContextManager[Session]]

Row = TypeVar("Row", FileRow, JobRow)


@dataclass(frozen=True)
class Table:
    """What every table's class is made with."""

    _reading: Sessions
    _writing: Sessions


class CursorError(Exception):
    """The entry after which a page was asked for is not there (any more)."""


def page_of(
    session: Session, table: type[Row], limit: int, after: str | None, *which: ColumnElement[bool]
) -> tuple[Sequence[Row], bool]:
    """At most `limit` rows, newest first, from the one after the id `after` on, and whether there are more.

    Raises CursorError: there is no row `after`.
    """
    query = select(table).where(*which).order_by(table.number.desc())
    if after is not None:
        number = session.scalar(select(table.number).where(table.id == after))
        if number is None:
            raise CursorError(after)
        query = query.where(table.number < number)
    rows = session.scalars(query.limit(limit + 1)).all()
    return rows[:limit], len(rows) > limit
