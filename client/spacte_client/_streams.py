"""A certificate while it is being proven: `certify_stream`, once blocking and once on asyncio.

    with client.certify_stream("digit.png", n=100_000) as stream:
        for event in stream:
            ...
        certificate = stream.result()

Leaving the `with` block before the end frees the gateway's samplers. What was proven by then stays true.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Self

import httpx2

from ._calls import Call
from ._connection import AsyncConnection, Connection, transport_errors
from ._exceptions import APIConnectionError, APIResponseError, InvalidArgumentError
from ._problems import error_from_problem, problem_from
from .types import Certificate, ProgressEvent, ResultEvent, StartedEvent

StreamEvent = StartedEvent | ProgressEvent | ResultEvent
"""What iterating a stream yields. A stream that fails raises instead."""


class _Stream:
    """What both kinds of stream have received.

    Attributes:
        progress: the latest proof. True whether or not the stream goes on.
    """

    progress: ProgressEvent | None = None
    _certificate: Certificate | None = None
    _response: httpx2.Response | None = None

    def _parse(self, raw: httpx2.ServerSentEvent) -> StreamEvent | None:
        """One event as it came; None for a kind that this version does not know. The event `error` is raised."""
        try:
            document = raw.json()
            if raw.event == "error":
                problem = problem_from(document)
                if problem is not None:
                    raise error_from_problem(problem)
                raise ValueError("the event `error` carries no problem document")
            if raw.event == "started":
                return StartedEvent.model_validate(document)
            if raw.event == "progress":
                self.progress = ProgressEvent.model_validate(document)
                return self.progress
            if raw.event == "result":
                self._certificate = Certificate.model_validate(document)
                return ResultEvent(certificate=self._certificate)
        except ValueError as error:
            raise APIResponseError(
                f"The stream sent an event {raw.event!r} that cannot be read; check that the gateway's "
                "version fits this client's."
            ) from error
        return None

    def _check_opened(self, how: str) -> None:
        """See that the request was sent; an `InvalidArgumentError` where the stream is read outside its block."""
        if self._response is None:
            raise InvalidArgumentError(f"Open the stream before reading it: `{how} client.certify_stream(...) as s`.")

    def _final(self) -> Certificate:
        """The certificate, once the stream has ended; an `APIConnectionError` where it ended without one."""
        if self._certificate is None:
            proven = self.progress.radius if self.progress else 0.0
            raise APIConnectionError(f"The stream ended before its result, at a proven radius of {proven}; ask again.")
        return self._certificate


class CertifyStream(_Stream):
    """Events of one certificate in the making. Made by `Client.certify_stream`; use it in a `with` block."""

    def __init__(self, connection: Connection, call: Call[httpx2.Response]) -> None:
        self._connection = connection
        self._call = call
        self._events = self._read(None)

    def __enter__(self) -> Self:
        self._response = self._connection.send(self._call)
        self._events = self._read(self._response)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[StreamEvent]:
        """Each event as it comes; raises what the stream fails with."""
        self._check_opened("with")
        return self._events

    def result(self) -> Certificate:
        """Wait for the end, and return the certificate."""
        for _ in self:
            pass
        return self._final()

    def close(self) -> None:
        """Stop listening, which stops the drawing of noise."""
        self._events = self._read(None)
        if self._response is not None:
            self._response.close()

    def _read(self, response: httpx2.Response | None) -> Iterator[StreamEvent]:
        if response is None:
            return
        with transport_errors(self._connection.settings, self._call):
            for raw in httpx2.EventSource(response):
                event = self._parse(raw)
                if event is not None:
                    yield event
                if self._certificate is not None:
                    return
        self._final()


class AsyncCertifyStream(_Stream):
    """Events of one certificate in the making, from `AsyncClient.certify_stream`; use it in `async with`."""

    def __init__(self, connection: AsyncConnection, call: Call[httpx2.Response]) -> None:
        self._connection = connection
        self._call = call
        self._events = self._read(None)

    async def __aenter__(self) -> Self:
        self._response = await self._connection.send(self._call)
        self._events = self._read(self._response)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[StreamEvent]:
        """Each event as it comes; raises what the stream fails with."""
        self._check_opened("async with")
        return self._events

    async def result(self) -> Certificate:
        """Wait for the end, and return the certificate."""
        async for _ in self:
            pass
        return self._final()

    async def close(self) -> None:
        """Stop listening, which stops the drawing of noise."""
        self._events = self._read(None)
        if self._response is not None:
            await self._response.aclose()

    async def _read(self, response: httpx2.Response | None) -> AsyncIterator[StreamEvent]:
        if response is None:
            return
        with transport_errors(self._connection.settings, self._call):
            async for raw in httpx2.EventSource(response):
                event = self._parse(raw)
                if event is not None:
                    yield event
                if self._certificate is not None:
                    return
        self._final()
