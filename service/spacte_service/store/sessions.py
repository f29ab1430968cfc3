"""Transactions of the store's tables, and pages of their rows."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import ColumnElement, select, text
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


def of(table: type[Row], owners: Collection[str] | None) -> list[ColumnElement[bool]]:
    """The condition that a row belongs to one of the owners; none where they are None, for all."""
    return [] if owners is None else [table.owner.in_(owners)]


def lock(session: Session, name: str) -> None:
    """Keep other transactions that lock this name waiting until this one is over.

    On SQLite every transaction that writes does.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name})


def page_of(
    session: Session,
    table: type[Row],
    limit: int,
    after: str | None,
    owners: Collection[str] | None,
    *which: ColumnElement[bool],
) -> tuple[Sequence[Row], bool]:
    """At most `limit` rows of these owners, newest first, after that with the id `after`, and whether there are more.

    Raises CursorError: there is no row `after`.
    """
    query = select(table).where(*of(table, owners), *which).order_by(table.number.desc())
    if after is not None:
        number = session.scalar(select(table.number).where(table.id == after, *of(table, owners)))
        if number is None:
            raise CursorError(after)
        query = query.where(table.number < number)
    rows = session.scalars(query.limit(limit + 1)).all()
    return rows[:limit], len(rows) > limit
