"""Results and events of a job as they arrive; after a broken connection they resume where they were.

The cursor is the last thing that arrived: `after=index` for results, `Last-Event-ID` for events.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing
from typing import Any, Generic, TypeVar

import httpx2
from pydantic import TypeAdapter, ValidationError

from ._calls import Call
from ._calls_jobs import get_job, job_events, job_results
from ._connection import AsyncConnection, Connection, transport_errors
from ._exceptions import APIConnectionError, APIResponseError, APITimeoutError, ServiceUnavailableError
from ._retries import Backoff
from .types import CertificateRecord, ErrorRecord, JobEvent, JobProgressEvent, JobRecord, JobStateEvent

Record = CertificateRecord | ErrorRecord
"""One finished image of a job."""

Event = JobStateEvent | JobProgressEvent
"""A change in the life of a job."""

Entry = TypeVar("Entry")

_RECORD: TypeAdapter[Record] = TypeAdapter(JobRecord)
_EVENT: TypeAdapter[Event] = TypeAdapter(JobEvent)


class JobStream(ABC, Generic[Entry]):
    """A stream of a job that can be resumed: it remembers the last thing that arrived.

    Args:
        follow: whether it goes on until the job ends, so that an earlier end is a broken connection.
    """

    sends_events: bool
    """Whether a response consists of server-sent events, or of lines."""

    def __init__(self, job_id: str, *, follow: bool) -> None:
        self.job_id = job_id
        self.follow = follow

    @abstractmethod
    def call(self) -> Call[httpx2.Response]:
        """The request for what comes after the last thing that arrived."""

    @abstractmethod
    def parse(self, piece: Any) -> Entry | None:
        """An event or a line as an entry; None where it is not for the caller. Raises an `APIResponseError`."""


class JobResults(JobStream[Record]):
    """The records of a job after row `after`."""

    sends_events = False

    def __init__(self, job_id: str, after: int | None, *, follow: bool) -> None:
        super().__init__(job_id, follow=follow)
        self.after = after

    def call(self) -> Call[httpx2.Response]:
        return job_results(self.job_id, self.after, follow=self.follow)

    def parse(self, piece: str) -> Record | None:
        if not piece.strip():  # only keeps the connection open
            return None
        try:
            record = _RECORD.validate_json(piece)
        except ValidationError as error:
            raise _unreadable("The job's results hold a line") from error
        self.after = record.index
        return record


class JobEvents(JobStream[Event]):
    """The events of a job after the one of id `after`."""

    sends_events = True

    def __init__(self, job_id: str, after: str | None) -> None:
        super().__init__(job_id, follow=True)
        self.after = after

    def call(self) -> Call[httpx2.Response]:
        return job_events(self.job_id, self.after)

    def parse(self, piece: httpx2.ServerSentEvent) -> Event | None:
        self.after = piece.id or self.after
        if piece.event not in ("state", "progress"):  # of a newer service
            return None
        try:
            document: Any = piece.json()
            return _EVENT.validate_python({**document, "event": piece.event})
        except (TypeError, ValueError) as error:
            raise _unreadable(f"The job sent an event {piece.event!r}") from error


class _Reconnects:
    """When a stream that broke is asked for again.

    `with reconnects:` goes around a connection. An error that another connection may get past, as when the
    gateway restarts, is suppressed, and `delay` is the pause before it, in seconds. The silence of a job that goes on
    is no failure.
    """

    def __init__(self, stream: JobStream[Any], max_retries: int) -> None:
        self.stream = stream
        self.backoff = Backoff(max_retries)
        self.delay = 0.0
        self.opened = self.reading = False
        self.silent = False
        """The last connection said nothing for as long as a read may take: the job may be slow, or the line dead."""
        self.job_ended = False

    def __enter__(self) -> None:
        self.reading = False

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if not isinstance(error, APIConnectionError | ServiceUnavailableError):
            return False
        late = isinstance(error, APITimeoutError) and error.sent
        self.silent = late and self.reading and self.stream.follow and not self.job_ended
        delay = 0.0 if self.silent else self.backoff.delay_after(error)
        self.delay = delay or 0.0
        return self.opened and delay is not None

    def on_open(self) -> None:
        """A response has arrived, and is being read."""
        self.opened = self.reading = True


def read(connection: Connection, stream: JobStream[Entry]) -> Iterator[Entry]:
    """The entries of `stream`, over as many connections as it takes.

    Raises:
        APIError: the connection broke, or the gateway was away, once more than the settings allow in a row.
    """
    reconnects = _Reconnects(stream, connection.settings.max_retries)
    while True:
        with reconnects:
            if reconnects.silent:
                reconnects.job_ended = connection.send(get_job(stream.job_id)).ended
            call = stream.call()
            with closing(connection.send(call)) as response, transport_errors(connection.settings, call):
                reconnects.on_open()
                for piece in httpx2.EventSource(response) if stream.sends_events else response.iter_lines():
                    reconnects.backoff.failed = 0
                    entry = stream.parse(piece)
                    if entry is not None:
                        yield entry
            reconnects.reading = False
            if not stream.follow or connection.send(get_job(stream.job_id)).ended:
                return
            raise _ended_early()
        time.sleep(reconnects.delay)


async def aread(connection: AsyncConnection, stream: JobStream[Entry]) -> AsyncIterator[Entry]:
    """The entries of `stream`, over as many connections as it takes; see `read`."""
    reconnects = _Reconnects(stream, connection.settings.max_retries)
    while True:
        with reconnects:
            if reconnects.silent:
                reconnects.job_ended = (await connection.send(get_job(stream.job_id))).ended
            call = stream.call()
            async with aclosing(await connection.send(call)) as response:
                with transport_errors(connection.settings, call):
                    reconnects.on_open()
                    async for piece in httpx2.EventSource(response) if stream.sends_events else response.aiter_lines():
                        reconnects.backoff.failed = 0
                        entry = stream.parse(piece)
                        if entry is not None:
                            yield entry
            reconnects.reading = False
            if not stream.follow or (await connection.send(get_job(stream.job_id))).ended:
                return
            raise _ended_early()
        await asyncio.sleep(reconnects.delay)


def _unreadable(what: str) -> APIResponseError:
    return APIResponseError(f"{what} that cannot be read; check that the gateway's version fits this client's.")


def _ended_early() -> APIConnectionError:
    return APIConnectionError("The gateway closed the stream although the job goes on; ask again.")
