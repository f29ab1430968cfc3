"""Results and events of a job as they come, resumed where they were when the connection breaks.

The cursor is the last thing that arrived: `after=index` for results, `Last-Event-ID` for events.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any, Protocol, TypeVar

import httpx2
from pydantic import TypeAdapter, ValidationError

from ._calls import Call
from ._calls_jobs import get_job, job_events, job_results
from ._connection import AsyncConnection, Connection, transport_errors
from ._exceptions import APIConnectionError, APIError, APIResponseError, APITimeoutError, ServiceUnavailableError
from ._retries import Attempts
from .types import CertificateRecord, ErrorRecord, JobEvent, JobProgressEvent, JobRecord, JobStateEvent

Record = CertificateRecord | ErrorRecord
"""One finished image of a job."""

Event = JobStateEvent | JobProgressEvent
"""A change in the life of a job."""

Raw = TypeVar("Raw")
Entry_co = TypeVar("Entry_co", covariant=True)

_RECORD: TypeAdapter[Any] = TypeAdapter(JobRecord)
_EVENT: TypeAdapter[Any] = TypeAdapter(JobEvent)
_EVENT_KINDS = ("state", "progress")
_PASSING = (APIConnectionError, ServiceUnavailableError)
"""What a feed that was open once is taken up again after: the gateway may be starting again."""


class Feed(Protocol[Raw, Entry_co]):
    """A stream of a job that can be taken up again: it remembers the last thing that it took."""

    job_id: str
    follows: bool
    """Whether it goes on until the job ends, so that an earlier end is a broken connection."""

    def call(self) -> Call[None]:
        """The request for what comes after the last thing taken."""
        ...

    def split(self, response: httpx2.Response) -> Iterable[Raw]:
        """The response in pieces, as they come."""
        ...

    def asplit(self, response: httpx2.Response) -> AsyncIterable[Raw]:
        """The same on asyncio."""
        ...

    def take(self, raw: Raw) -> Entry_co | None:
        """A piece as an entry; None for one that callers are not told of.

        Raises:
            APIResponseError: it is malformed.
        """
        ...


class Results:
    """The records of a job after row `after`."""

    def __init__(self, job_id: str, after: int | None, *, follow: bool) -> None:
        self.job_id = job_id
        self.after = after
        self.follows = follow

    def call(self) -> Call[None]:
        """See `Feed`."""
        return job_results(self.job_id, self.after, follow=self.follows)

    def split(self, response: httpx2.Response) -> Iterable[str]:
        """See `Feed`."""
        return response.iter_lines()

    def asplit(self, response: httpx2.Response) -> AsyncIterable[str]:
        """See `Feed`."""
        return response.aiter_lines()

    def take(self, raw: str) -> Record | None:
        """See `Feed`. An empty line only keeps the connection open."""
        if not raw.strip():
            return None
        try:
            record: Record = _RECORD.validate_python(json.loads(raw))
        except (ValueError, ValidationError) as error:
            raise _unreadable("The job's results hold a line") from error
        self.after = record.index
        return record


class Events:
    """The events of a job after the one named `after`."""

    follows = True

    def __init__(self, job_id: str, after: str | None) -> None:
        self.job_id = job_id
        self.after = after

    def call(self) -> Call[None]:
        """See `Feed`."""
        return job_events(self.job_id, self.after)

    def split(self, response: httpx2.Response) -> Iterable[httpx2.ServerSentEvent]:
        """See `Feed`."""
        return httpx2.EventSource(response)

    def asplit(self, response: httpx2.Response) -> AsyncIterable[httpx2.ServerSentEvent]:
        """See `Feed`."""
        return httpx2.EventSource(response)

    def take(self, raw: httpx2.ServerSentEvent) -> Event | None:
        """See `Feed`. A kind of event that this version does not know is passed over."""
        self.after = raw.id or self.after
        if raw.event not in _EVENT_KINDS:
            return None
        try:
            document: Any = raw.json()
            return _EVENT.validate_python({**document, "event": raw.event})
        except (TypeError, ValueError, ValidationError) as error:
            raise _unreadable(f"The job sent an event {raw.event!r}") from error


class _Course:
    """What both kinds of loop know of a feed's connections: when to look at the job, and how long to pause."""

    def __init__(self, feed: Feed[Any, Any], max_retries: int) -> None:
        self.feed = feed
        self.attempts = Attempts(max_retries)
        self.opened = False
        self.silent = False
        """The last connection said nothing for as long as a read may take: the job may be slow, or the line dead."""
        self.ended = False

    def pause_after(self, error: APIError, *, reading: bool) -> float:
        """Seconds until the next connection.

        The silence of a job that goes on is no failure.

        Args:
            reading: whether the feed was open, and no other request under way.

        Raises:
            APIError: `error`, where there is to be no further one.
        """
        late = isinstance(error, APITimeoutError) and error.sent
        self.silent = late and reading and self.feed.follows and not self.ended
        delay = 0.0 if self.silent else self.attempts.delay_after(error)
        if delay is None or not self.opened:
            raise error
        return delay


def entries(connection: Connection, feed: Feed[Raw, Entry_co]) -> Iterator[Entry_co]:
    """The entries of `feed`, over as many connections as it takes.

    Raises:
        APIConnectionError: the connection broke once more than the settings allow without anything in between.
        ServiceUnavailableError: likewise, as the gateway did not come back.
    """
    course = _Course(feed, connection.settings.max_retries)
    while True:
        response, reading = None, False
        try:
            if course.silent:
                course.ended = connection.send(get_job(feed.job_id)).ended
            call = feed.call()
            response = connection.open(call)
            course.opened = reading = True
            with transport_errors(connection.settings, call):
                for raw in feed.split(response):
                    course.attempts.failed = 0
                    entry = feed.take(raw)
                    if entry is not None:
                        yield entry
            reading = False
            if not feed.follows or connection.send(get_job(feed.job_id)).ended:
                return
            delay = course.pause_after(_ended_early(), reading=False)
        except _PASSING as error:
            delay = course.pause_after(error, reading=reading)
        finally:
            if response is not None:
                response.close()
        time.sleep(delay)


async def aentries(connection: AsyncConnection, feed: Feed[Raw, Entry_co]) -> AsyncIterator[Entry_co]:
    """The entries of `feed`, over as many connections as it takes; see `entries`."""
    course = _Course(feed, connection.settings.max_retries)
    while True:
        response, reading = None, False
        try:
            if course.silent:
                course.ended = (await connection.send(get_job(feed.job_id))).ended
            call = feed.call()
            response = await connection.open(call)
            course.opened = reading = True
            with transport_errors(connection.settings, call):
                async for raw in feed.asplit(response):
                    course.attempts.failed = 0
                    entry = feed.take(raw)
                    if entry is not None:
                        yield entry
            reading = False
            if not feed.follows or (await connection.send(get_job(feed.job_id))).ended:
                return
            delay = course.pause_after(_ended_early(), reading=False)
        except _PASSING as error:
            delay = course.pause_after(error, reading=reading)
        finally:
            if response is not None:
                await response.aclose()
        await asyncio.sleep(delay)


def _unreadable(what: str) -> APIResponseError:
    return APIResponseError(f"{what} that cannot be read; check that the gateway's version fits this client's.")


def _ended_early() -> APIConnectionError:
    return APIConnectionError("The gateway closed the stream although the job goes on; ask again.")
