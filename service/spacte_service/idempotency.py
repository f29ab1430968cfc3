"""`Idempotency-Key`: the same request sent twice is worked on once, and its answer is kept for a day.

The answers are kept in this process and, where the gateway has a store, also there: then a restart forgets none, and
gateways that share a store know each other's. They are written after the answer was given, which nobody waits for.
"""

import asyncio
import hashlib
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

import structlog
from anyio import to_thread
from pydantic import BaseModel

from .problems import ProblemError

log = structlog.stdlib.get_logger("spacte.idempotency")

T = TypeVar("T", bound=BaseModel)

KEEP_S = 24 * 3600.0  # the API's promise
MOST_KEPT = 10_000  # answers in this process; chosen: at 2 KiB each, 20 MiB
KEY = re.compile(r"[\x21-\x7e]{1,255}")  # visible ASCII, of the length of the store's column
RUNNING_S = 1.0  # `Retry-After` while the first request runs; chosen: of the order of a certificate


def check_key(key: str | None) -> str | None:
    """Refuse an `Idempotency-Key` that cannot be kept; None is no key. Raises ProblemError: 400."""
    if key is not None and not KEY.fullmatch(key):
        raise ProblemError("bad_request", "Make the Idempotency-Key 1 to 255 visible ASCII characters.")
    return key


def fingerprint(*parts: bytes) -> str:
    """One SHA-256 for what makes two requests the same."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def mismatch() -> ProblemError:
    """The 422 of a key that belongs to another request."""
    sentence = "This Idempotency-Key was used with another request; take a new key for a new request."
    return ProblemError("idempotency_mismatch", sentence)


def in_progress(who: str = "The first request with this Idempotency-Key is still running") -> ProblemError:
    """The 409 of a request that another one with the same key is ahead of."""
    return ProblemError("idempotency_in_progress", f"{who}; try again in a moment.", retry_after_s=RUNNING_S)


class AnswerStore(Protocol):
    """Keeps answers beyond this process: `spacte_service.store.idempotency.Idempotency`."""

    def find(self, caller: str, key: str, fingerprint: str) -> dict[str, Any] | None:
        """An earlier answer to the same request; `MismatchError` where the key belongs to another one."""
        ...

    def keep(self, caller: str, key: str, fingerprint: str, answer: dict[str, Any]) -> None:
        """Keep an answer."""


@dataclass
class _Entry(Generic[T]):
    fingerprint: str
    since: float
    answer: T | None = None


@dataclass
class IdempotentAnswers(Generic[T]):
    """Answers of one kind by caller and idempotency key; the oldest is dropped first.

    `_store` gives the store's part, or None while the gateway has no store.
    """

    _kind: type[T]
    _store: Callable[[], Awaitable[AnswerStore | None]]
    keep_s: float = KEEP_S
    most: int = MOST_KEPT
    _writing: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])
    _entries: OrderedDict[tuple[str, str], _Entry[T]] = field(default_factory=OrderedDict[tuple[str, str], _Entry[T]])

    async def once(self, caller: str, key: str, request: str, work: Callable[[], Awaitable[T]]) -> tuple[T, bool]:
        """The answer to a request, known by its fingerprint, and whether it is an earlier one; `work` makes a new one.

        Keys of different callers are different keys. A request that fails may be sent again with its key.
        Raises ProblemError: 409 while the first is worked on; 422 where the key belongs to another request.
        """
        self._drop_old()
        entry = self._entries.get((caller, key))
        if entry is not None:
            if entry.fingerprint != request:
                raise mismatch()
            if entry.answer is None:
                raise in_progress()
            return entry.answer, True
        entry = self._entries[caller, key] = _Entry(request, monotonic())
        try:
            earlier = await self._find(caller, key, request)
            answer = entry.answer = earlier or await work()
        except BaseException:
            del self._entries[caller, key]
            raise
        if earlier is None:
            writing = asyncio.create_task(self._keep(caller, key, request, answer))
            self._writing.add(writing)
            writing.add_done_callback(self._writing.discard)
        return answer, earlier is not None

    async def written(self) -> None:
        """Return once every answer that was given is in the store."""
        await asyncio.gather(*self._writing)

    async def _find(self, caller: str, key: str, request: str) -> T | None:
        store = await self._store()
        if store is None:
            return None
        from sqlalchemy.exc import SQLAlchemyError

        from spacte_service.store.idempotency import MismatchError

        try:
            found = await to_thread.run_sync(store.find, caller, key, request)
        except MismatchError:
            raise mismatch() from None
        except SQLAlchemyError as error:  # the store is down: `/readyz` says so, and certificates need none
            log.warning("kept answers cannot be read", reason=type(error).__name__)
            return None
        return None if found is None else self._kind.model_validate(found)

    async def _keep(self, caller: str, key: str, request: str, answer: T) -> None:
        store = await self._store()
        if store is None:
            return
        from sqlalchemy.exc import SQLAlchemyError

        try:
            await to_thread.run_sync(store.keep, caller, key, request, answer.model_dump(mode="json"))
        except SQLAlchemyError as error:
            log.warning("an answer is kept in this process only", reason=type(error).__name__)

    def _drop_old(self) -> None:
        now = monotonic()
        while self._entries:
            request, entry = next(iter(self._entries.items()))
            old = now - entry.since > self.keep_s or len(self._entries) >= self.most
            if not old or entry.answer is None:
                return
            del self._entries[request]
