"""Requests with an `Idempotency-Key`: the first is worked on, later ones get its answer, for a day."""

import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from .schema import IdempotencyRow
from .sessions import Table

KEPT = timedelta(hours=24)  # the API's promise
LEASE = timedelta(seconds=60)
"""A gateway that died at work blocks the same request for so long. Chosen: a large input is counted in less."""
ATTEMPTS = 3  # chosen: two gateways may insert the same key at the same moment, and the second attempt finds it

ANSWER = "answer "
"""Before the caller of a kept answer, so that a key may be used for an answer and for a job: they are two requests."""


class InProgressError(Exception):
    """The first request with this key is still being worked on."""


class MismatchError(Exception):
    """The key belongs to another request."""


@dataclass(frozen=True)
class Claim:
    """The right to work on a request; `keep` it with the answer, in the transaction that does the work."""

    _caller: str
    _key: str
    _token: str

    def _mine(self) -> tuple[Any, ...]:
        row = IdempotencyRow
        return (row.caller == self._caller, row.key == self._key, row.token == self._token)

    def keep(self, session: Session, answer: dict[str, Any]) -> None:
        """Store the answer with the work.

        Raises InProgressError: this took so long that another took over; nothing must be kept.
        """
        changed = session.execute(
            update(IdempotencyRow).where(*self._mine()).values(answer=answer).returning(IdempotencyRow.key)
        )
        if changed.first() is None:
            raise InProgressError

    def drop(self, session: Session) -> None:
        """The request failed: it may be sent again with its key."""
        session.execute(delete(IdempotencyRow).where(*self._mine(), IdempotencyRow.answer.is_(None)))


class Idempotency(Table):
    """The table of such requests: claims on work that is stored here, and answers that are kept whole."""

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
            _drop_old(session)
            here = select(IdempotencyRow).where(IdempotencyRow.caller == caller, IdempotencyRow.key == key)
            row = session.scalars(here.with_for_update()).one_or_none()
            token = secrets.token_hex(16)
            if row is None:
                session.add(_row(caller, key, fingerprint, token, None))
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

    def find(self, caller: str, key: str, fingerprint: str) -> dict[str, Any] | None:
        """The answer that this request got within the last day.

        Raises MismatchError: the key belongs to another request.
        """
        row = IdempotencyRow
        mine = (row.caller == ANSWER + caller, row.key == key, row.created_at >= datetime.now(UTC) - KEPT)
        with self._reading() as session:
            found = session.execute(select(row.fingerprint, row.answer).where(*mine)).one_or_none()
        if found is not None and found.fingerprint != fingerprint:
            raise MismatchError
        return None if found is None else found.answer

    def keep(self, caller: str, key: str, fingerprint: str, answer: dict[str, Any]) -> None:
        """Keep an answer, unless another gateway has given one to the same key meanwhile; that one stays."""
        with suppress(IntegrityError), self._writing() as session:
            _drop_old(session)
            session.add(_row(ANSWER + caller, key, fingerprint, "", answer))


def _row(caller: str, key: str, fingerprint: str, token: str, answer: dict[str, Any] | None) -> IdempotencyRow:
    now = datetime.now(UTC)
    return IdempotencyRow(caller=caller, key=key, fingerprint=fingerprint, token=token, created_at=now, answer=answer)


def _drop_old(session: Session) -> None:
    session.execute(delete(IdempotencyRow).where(IdempotencyRow.created_at < datetime.now(UTC) - KEPT))
