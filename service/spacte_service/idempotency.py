"""`Idempotency-Key`: the same request sent twice is worked on once, and its answer is kept for a day.

The answers are kept in this process: a restart forgets them, and a retry after it is a new request.
"""

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from .problems import ProblemError

T = TypeVar("T")

KEEP_S = 24 * 3600.0
MOST_KEPT = 10_000
"""Answers kept at most; the oldest goes first."""

KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass
class _Entry(Generic[T]):
    fingerprint: str
    since: float
    answer: T | None = None


def fingerprint(*parts: bytes) -> str:
    """One SHA-256 for what makes two requests the same."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def check_key(key: str | None) -> None:
    """Refuse a key that cannot be kept; None is no key.

    Raises:
        ProblemError: 400.
    """
    if key is not None and not KEY.fullmatch(key):
        raise ProblemError("bad_request", "Make the Idempotency-Key 1 to 255 visible ASCII characters.")


class Answers(Generic[T]):
    """Answers by caller and idempotency key."""

    def __init__(self, keep_s: float = KEEP_S, most: int = MOST_KEPT) -> None:
        self._keep_s = keep_s
        self._most = most
        self._entries: OrderedDict[tuple[str, str], _Entry[T]] = OrderedDict()

    async def once(
        self, caller: str, key: str, request: str, work: Callable[[], Awaitable[T]]
    ) -> tuple[T, bool]:
        """The answer, and whether it is an earlier one. A request that fails may be sent again with its key.

        Args:
            caller: keys of different callers are different keys.
            key: as the caller sent it.
            request: fingerprint of the request.
            work: makes the answer.

        Raises:
            ProblemError: 409 while the first is worked on; 422 where the key belongs to another request.
        """
        check_key(key)
        self._forget()
        place = (caller, key)
        entry = self._entries.get(place)
        if entry is not None:
            if entry.fingerprint != request:
                sentence = (
                    "This Idempotency-Key was used with another request; take a new key for a new request."
                )
                raise ProblemError("idempotency_mismatch", sentence)
            if entry.answer is None:
                sentence = (
                    "The first request with this Idempotency-Key is still running; try again in a moment."
                )
                raise ProblemError("idempotency_in_progress", sentence, retry_after_s=1.0)
            return entry.answer, True
        entry = self._entries[place] = _Entry(request, time.monotonic())
        try:
            answer = entry.answer = await work()
        except BaseException:
            del self._entries[place]
            raise
        return answer, False

    def _forget(self) -> None:
        now = time.monotonic()
        while self._entries:
            place, entry = next(iter(self._entries.items()))
            old = now - entry.since > self._keep_s or len(self._entries) >= self._most
            if not old or entry.answer is None:
                return
            del self._entries[place]
