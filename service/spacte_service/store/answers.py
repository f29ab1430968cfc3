"""Answers to requests with an `Idempotency-Key`, kept for a day, also when the process that gave them ends."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError

from .idempotency import KEPT, MismatchError
from .schema import IdempotencyRow
from .sessions import Sessions

PREFIX = "answer "
"""Before the caller, so that a key may be used for an answer and for a job: they are different requests."""


class StoredAnswers:
    """Whole answers in the table of repeatable requests. What is being worked on is not in there."""

    def __init__(self, reading: Sessions, writing: Sessions) -> None:
        self._reading = reading
        self._writing = writing

    def find(self, caller: str, key: str, fingerprint: str) -> dict[str, Any] | None:
        """The answer that this request got within the last day.

        Raises:
            MismatchError: the key belongs to another request.
        """
        row = IdempotencyRow
        here = select(row.fingerprint, row.answer).where(
            row.caller == PREFIX + caller, row.key == key, row.created_at >= datetime.now(UTC) - KEPT
        )
        with self._reading() as session:
            found = session.execute(here).one_or_none()
        if found is None:
            return None
        if found.fingerprint != fingerprint:
            raise MismatchError
        return found.answer

    def keep(self, caller: str, key: str, fingerprint: str, answer: dict[str, Any]) -> None:
        """Keep an answer, unless another gateway has given one to the same key meanwhile; that one stays."""
        now = datetime.now(UTC)
        row = IdempotencyRow(
            caller=PREFIX + caller, key=key, fingerprint=fingerprint, token="", created_at=now, answer=answer
        )
        try:
            with self._writing() as session:
                session.execute(delete(IdempotencyRow).where(IdempotencyRow.created_at < now - KEPT))
                session.add(row)
        except IntegrityError:
            return
