"""Open streams: so many a caller, and none beyond the life of its key."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass
from typing import Any

from .callers import Caller
from .keys import KeyRing
from .quotas import over_quota

CHECK_S = 0.5  # between two looks at the keys; chosen: a stream ends within two seconds of its key
FORCE_AFTER = 2  # looks; chosen: whoever follows a job looks at its stream twice a second


@dataclass(eq=False)
class OpenStream:
    """A request whose answer is a stream; `work` is a task at whose end the stream ends by itself, if there is one."""

    caller: Caller
    request: asyncio.Task[Any]
    work: asyncio.Task[Any] | None = None
    looks: int = 0  # at the keys, since this one is no longer valid

    @property
    def revoked(self) -> bool:
        """Whether its key is no longer valid; then the stream is to end."""
        return self.looks > 0

    def revoke(self) -> None:
        """Have the stream end by itself, or by force where it does not."""
        self.looks += 1
        if self.looks > FORCE_AFTER:
            self.request.cancel()
        elif self.work is not None:
            self.work.cancel()


class OpenStreams:
    """The streams of one gateway."""

    def __init__(self, keys: KeyRing | None) -> None:
        self._keys = keys
        self._streams: set[OpenStream] = set()
        self._watch: asyncio.Task[None] | None = None

    @contextmanager
    def open(self, caller: Caller) -> Generator[OpenStream]:
        """Count the present request as a stream. Raises ProblemError: 429."""
        limit = caller.quotas.streams
        if limit is not None and sum(stream.caller.id == caller.id for stream in self._streams) >= limit:
            raise over_quota("streams", limit)
        request = asyncio.current_task()
        if request is None:
            raise RuntimeError("A stream is the answer of a task.")
        stream = OpenStream(caller, request)
        self._streams.add(stream)
        if self._keys is not None and (self._watch is None or self._watch.done()):
            self._watch = asyncio.create_task(self._end_revoked(self._keys), context=Context())
        try:
            yield stream
        finally:
            self._streams.discard(stream)

    async def _end_revoked(self, keys: KeyRing) -> None:
        """While there are streams, end those whose keys are no longer valid."""
        while self._streams:
            await asyncio.sleep(CHECK_S)
            for stream in list(self._streams):
                if stream.caller.key is not None and not keys.is_valid(stream.caller.key):
                    stream.revoke()
