"""Requests that their senders may repeat: the first is worked on, later ones get its answer, for a day."""

import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from .schema import IdempotencyRow
from .sessions import Sessions

KEPT = timedelta(hours=24)
"""The API's promise."""

LEASE = timedelta(seconds=60)
"""A gateway that died at work blocks the same request for so long. Chosen: a large input is counted in less."""

ATTEMPTS = 3
"""Chosen: two gateways may insert the same key at the same moment, and the second attempt finds it."""


class InProgressError(Exception):
    """The first request with this key is still being worked on."""


class MismatchError(Exception):
    """The key belongs to another request."""


class Claim:
    """The right to work on a request; `keep` it with the answer, in the transaction that does the work."""

    def __init__(self, caller: str, key: str, token: str) -> None:
        self._caller = caller
        self._key = key
        self._token = token

    def _mine(self) -> tuple[Any, ...]:
        row = IdempotencyRow
        return (row.caller == self._caller, row.key == self._key, row.token == self._token)

    def keep(self, session: Session, answer: dict[str, Any]) -> None:
        """Store the answer with the work.

        Raises:
            InProgressError: this took so long that another took over; nothing must be kept.
        """
        changed = session.execute(
            update(IdempotencyRow).where(*self._mine()).values(answer=answer).returning(IdempotencyRow.key)
        )
        if changed.first() is None:
            raise InProgressError

    def drop(self, session: Session) -> None:
        """The request failed: it may be sent again with its key."""
        session.execute(delete(IdempotencyRow).where(*self._mine(), IdempotencyRow.answer.is_(None)))


class Idempotency:
    """The table of such requests."""

    def __init__(self, writing: Sessions) -> None:
        self._writing = writing

    def claim(self, caller: str, key: str, fingerprint: str) -> Claim | dict[str, Any]:
        """The right to work on a request, or the answer that an earlier one got.

        Raises:
            InProgressError: the first is being worked on.
            MismatchError: the key belongs to another request.
        """
        for _ in range(ATTEMPTS):
            try:
                return self._claim(caller, key, fingerprint)
            except IntegrityError:  # another gateway claimed it between our question and our insertion
                continue
        raise InProgressError

    def _claim(self, caller: str, key: str, fingerprint: str) -> Claim | dict[str, Any]:
        now = datetime.now(UTC)
        with self._writing() as session:
            session.execute(delete(IdempotencyRow).where(IdempotencyRow.created_at < now - KEPT))
            here = select(IdempotencyRow).where(IdempotencyRow.caller == caller, IdempotencyRow.key == key)
            row = session.scalars(here.with_for_update()).one_or_none()
            token = secrets.token_hex(16)
            if row is None:
                session.add(
                    IdempotencyRow(
                        caller=caller, key=key, fingerprint=fingerprint, token=token, created_at=now, answer=None
                    )
                )
                return Claim(caller, key, token)
            if row.fingerprint != fingerprint:
                raise MismatchError
            if row.answer is not None:
                return row.answer
            if now - row.created_at < LEASE:
                raise InProgressError
            row.token, row.created_at = token, now
            return Claim(caller, key, token)

    def drop(self, claim: Claim) -> None:
        """Give a claim back after a failure."""
        with self._writing() as session:
            claim.drop(session)
