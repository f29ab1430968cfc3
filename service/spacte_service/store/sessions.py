"""How the views of the store come to a transaction, and what lists have in common."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import Session

Sessions = Callable[[], AbstractContextManager[Session]]

Row = TypeVar("Row")


class CursorError(Exception):
    """The entry after which a page was asked for is not there (any more)."""


def one_page(session: Session, query: Select[Row], limit: int) -> tuple[Sequence[Row], bool]:
    """The first `limit` rows of a query, and whether there are more."""
    rows = session.scalars(query.limit(limit + 1)).all()
    return rows[:limit], len(rows) > limit
