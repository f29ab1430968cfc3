"""`certify_stream`: events as they are on the wire, the result at the end, and what cuts it short."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

import spacte_client as sdk
from spacte_client import AsyncClient, CertifyStream, Client
from spacte_client.types import ProgressEvent, ResultEvent, StartedEvent

from .conftest import CERTIFICATE, Recorder, problem, sse

STARTED = ("started", {"request_id": "req_1", "model": "digits", "n_max": 1000, "looks": 5})
PROGRESS = {"samples": 400, "top_label": 7, "p_lower": 0.9, "radius": 0.32, "looks_done": 2, "eta_ms": 700.0}
WHOLE = sse(STARTED, ("progress", PROGRESS), ("progress", PROGRESS | {"radius": 0.4}), ("result", CERTIFICATE))

Seen = tuple[list[Any], Any]
Follow = Callable[..., Seen]


def stream(body: bytes) -> httpx2.Response:
    return httpx2.Response(200, content=body, headers={"content-type": "text/event-stream; charset=utf-8"})


@pytest.fixture(params=["Client", "AsyncClient"])
def follow(request: pytest.FixtureRequest) -> Follow:
    """`follow(handler)`: all events, and the result, by each of the two clients."""
    if request.param == "Client":

        def blocking(handler: Any, **options: Any) -> Seen:
            with (
                Client(transport=httpx2.MockTransport(handler)) as client,
                client.certify_stream(b"x", **options) as events,
            ):
                return list(events), events.result()

        return blocking

    def awaited(handler: Any, **options: Any) -> Seen:
        async def run() -> Seen:
            async with (
                AsyncClient(transport=httpx2.MockTransport(handler)) as client,
                client.certify_stream(b"x", **options) as events,
            ):
                return [event async for event in events], await events.result()

        return asyncio.run(run())

    return awaited


def test_events_come_in_order_and_the_last_is_the_certificate(follow: Follow) -> None:
    recorder = Recorder(stream(WHOLE))
    events, certificate = follow(recorder, n=1000)
    assert [type(event) for event in events] == [StartedEvent, ProgressEvent, ProgressEvent, ResultEvent]
    assert [event.event for event in events] == ["started", "progress", "progress", "result"]
    assert events[0].n_max == 1000
    assert [event.radius for event in events[1:3]] == [0.32, 0.4]
    assert certificate.radius == CERTIFICATE["radius"]
    assert events[-1].certificate == certificate
    assert recorder.last.url.path == "/v1/certify/stream"
    assert b'{"n": 1000}' in recorder.last.content
    assert "text/event-stream" in recorder.last.headers["accept"]


def test_events_of_a_newer_service_are_passed_over(follow: Follow) -> None:
    events, _ = follow(Recorder(stream(sse(STARTED, ("weather", {"rain": 1}), ("result", CERTIFICATE)))))
    assert [event.event for event in events] == ["started", "result"]


def test_a_progress_event_may_carry_the_certificate_that_stands(follow: Follow) -> None:
    body = sse(STARTED, ("progress", PROGRESS | {"certificate": CERTIFICATE}), ("result", CERTIFICATE))
    events, certificate = follow(Recorder(stream(body)))
    assert events[1].certificate == certificate


def test_opening_is_retried(follow: Follow, slept: list[float]) -> None:
    recorder = Recorder(problem(429, "overloaded"), stream(WHOLE))
    assert follow(recorder)[1].label == 7
    assert len(recorder.requests) == 2


def test_a_stream_that_took_too_long_is_not_begun_again(follow: Follow, slept: list[float]) -> None:
    recorder = Recorder(httpx2.ReadTimeout("slow"))
    with pytest.raises(sdk.APITimeoutError, match="deadline_ms"):
        follow(recorder)
    assert len(recorder.requests) == 1
    body = Cut(sse(STARTED), httpx2.ReadTimeout("silence"))
    with pytest.raises(sdk.APITimeoutError, match="deadline_ms"):
        follow(cut(body))


def test_a_refused_stream_raises_the_problem(follow: Follow) -> None:
    with pytest.raises(sdk.BadRequestError) as caught:
        follow(Recorder(problem(400, "bad_image", "Send a PNG.")))
    assert caught.value.message == "Send a PNG."


@pytest.mark.parametrize(
    ("body", "kind", "sentence"),
    [
        (sse(STARTED, ("progress", PROGRESS)), sdk.APIConnectionError, "at a proven radius of 0.32"),
        (b"", sdk.APIConnectionError, "at a proven radius of 0.0"),
        (sse(("started", {"n_max": 3})), sdk.APIResponseError, "'started' that cannot be read"),
        (sse(("result", {"label": 1})), sdk.APIResponseError, "'result' that cannot be read"),
        (sse(("error", {"oops": 1})), sdk.APIResponseError, "'error' that cannot be read"),
        (b"event: progress\ndata: {oops\n\n", sdk.APIResponseError, "'progress' that cannot be read"),
    ],
)
def test_a_stream_that_ends_badly_says_how(
    follow: Follow, body: bytes, kind: type[sdk.APIError], sentence: str
) -> None:
    with pytest.raises(kind, match=sentence):
        follow(Recorder(stream(body)))


def test_an_answer_that_is_no_stream_is_refused(follow: Follow) -> None:
    with pytest.raises(sdk.APIConnectionError, match="text/event-stream"):
        follow(Recorder(CERTIFICATE))


class Cut(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """A body that breaks after its first bytes, and knows whether it was closed."""

    def __init__(self, body: bytes, error: Exception | None = None) -> None:
        self.body, self.error, self.closed = body, error, False

    def __iter__(self) -> Any:
        yield self.body
        if self.error:
            raise self.error

    async def __aiter__(self) -> Any:
        yield self.body
        if self.error:
            raise self.error

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


def cut(body: Cut) -> Any:
    return lambda _: httpx2.Response(200, stream=body, headers={"content-type": "text/event-stream"})


def test_a_broken_connection_is_an_error_of_this_package(follow: Follow) -> None:
    body = Cut(sse(STARTED), httpx2.RemoteProtocolError("peer closed connection"))
    with pytest.raises(sdk.APIConnectionError, match="peer closed connection"):
        follow(cut(body))
    assert body.closed


def test_leaving_early_closes_the_connection_and_keeps_the_latest_proof() -> None:
    body = Cut(WHOLE)
    client = Client(transport=httpx2.MockTransport(cut(body)))
    with client.certify_stream(b"x") as events:
        assert events.progress is None
        for event in events:
            if isinstance(event, ProgressEvent):
                break
        assert events.progress is not None
        assert events.progress.radius == 0.32
        assert not body.closed
    assert body.closed
    assert list(events) == []
    with pytest.raises(sdk.APIConnectionError, match=r"proven radius of 0\.32"):
        events.result()


async def test_leaving_early_on_asyncio_likewise() -> None:
    body = Cut(WHOLE)
    client = AsyncClient(transport=httpx2.MockTransport(cut(body)))
    async with client.certify_stream(b"x") as events:
        async for event in events:
            if isinstance(event, ProgressEvent):
                break
        assert events.progress is not None
        assert not body.closed
    assert body.closed
    with pytest.raises(sdk.APIConnectionError):
        await events.result()


def test_a_stream_that_was_never_entered_says_so() -> None:
    stream = Client(transport=httpx2.MockTransport(Recorder(CERTIFICATE))).certify_stream(b"x")
    for read in (list, CertifyStream.result):
        with pytest.raises(sdk.InvalidArgumentError, match="Open the stream before reading it: `with client"):
            read(stream)
    stream.close()
