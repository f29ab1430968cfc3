"""Promise: a request's trace and id reach the samplers, and their spans and log lines name it."""

import asyncio
import http.server
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from spacte_service import Settings, create_app
from spacte_workers import tracing
from spacte_workers.cluster.sampler import ImageCache, RaySampler
from spacte_workers.shards import Image, NoiseSource, Phase, SampleTask, Shard, Votes
from spacte_workers.tracing import Trace, TracingError

pytestmark = pytest.mark.slow

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What is traced, as with a provider that the process was started with."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(otel, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


@pytest.fixture
async def real(tmp_path: Path, make_checkpoint: Callable[..., str]) -> AsyncIterator[httpx2.AsyncClient]:
    """The application over a real sampler in this process."""
    make_checkpoint(tmp_path / "digits")
    app = create_app(Settings(models=tmp_path, in_process=True, precision="fp32", samplers=1))
    async with app.router.lifespan_context(app):
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://testserver") as http:
            yield http


async def certify(http: httpx2.AsyncClient, digit: bytes, request_id: str, **headers: str) -> None:
    form = {"files": {"image": ("d.png", digit)}, "data": {"params": '{"n": 300}'}}
    answer = await http.post("/v1/certify", headers={"X-Request-ID": request_id, **headers}, **form)
    assert answer.status_code == 200


def draws(spans: InMemorySpanExporter) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == "spacte.draw"]


async def test_the_samplers_spans_hang_below_the_callers_trace(
    spans: InMemorySpanExporter, real: httpx2.AsyncClient, digit: bytes
) -> None:
    await certify(real, digit, "req_traced", traceparent=f"00-{TRACE}-{PARENT}-01")
    by_id = {span.context.span_id: span for span in spans.get_finished_spans() if span.context}
    drawn = draws(spans)
    assert drawn
    for span in drawn:
        assert span.context is not None
        assert f"{span.context.trace_id:032x}" == TRACE
        assert span.attributes is not None
        assert span.attributes["spacte.request_id"] == "req_traced"
        assert span.parent is not None
        above = by_id[span.parent.span_id]
        while above.parent is not None and above.parent.span_id in by_id:
            above = by_id[above.parent.span_id]
        assert above.parent is not None
        assert f"{above.parent.span_id:016x}" == PARENT  # the caller's own span
        assert above.start_time is not None
        assert span.start_time is not None
        assert span.end_time is not None
        assert above.start_time <= span.start_time <= span.end_time
    noises = {span.attributes["spacte.noises"] for span in drawn if span.attributes}
    assert sum(int(str(each)) for each in noises) >= 400


async def test_requests_that_share_an_engine_job_each_get_a_span(
    spans: InMemorySpanExporter, real: httpx2.AsyncClient, digit: bytes
) -> None:
    await asyncio.gather(*(certify(real, digit, f"req_{i}") for i in range(6)))
    ids = {span.attributes["spacte.request_id"] for span in draws(spans) if span.attributes}
    assert ids == {f"req_{i}" for i in range(6)}
    traces = {span.context.trace_id for span in draws(spans) if span.context}
    assert len(traces) == 6


async def test_the_samplers_log_lines_name_the_request(
    real: httpx2.AsyncClient, digit: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "spacte_workers.tracing"):
        await certify(real, digit, "req_logged")
    lines = [record.getMessage() for record in caplog.records if record.name == "spacte_workers.tracing"]
    assert lines
    assert all("req_logged" in line and " drew " in line for line in lines)


def test_a_failed_job_is_logged_with_whom_it_was_for(caplog: pytest.LogCaptureFixture) -> None:
    traces = [Trace("req_a"), Trace("req_b")]
    with pytest.raises(MemoryError), tracing.drawing("sampler-0", "digits@1", 500, traces):
        raise MemoryError
    assert "sampler-0 failed to draw 500 noises of digits@1 for req_a, req_b." in caplog.text


def test_outside_of_requests_nothing_is_traced(spans: InMemorySpanExporter) -> None:
    assert tracing.current() is None
    token = tracing.begin("req_1")
    assert tracing.current() == Trace("req_1", "")
    tracing.end(token)
    assert tracing.current() is None


async def test_the_context_travels_to_the_actor_as_plain_strings() -> None:
    """Each request once, however many of its shards are in the job."""
    called: list[Any] = []

    class Draw:
        @staticmethod
        async def remote(*arguments: Any) -> list[Votes]:
            called.extend(arguments)
            return [Votes((1, 0), 0.1)] * 3

    class Actor:
        draw = Draw

    image = Image(bytes(4), (1, 2, 2), "uint8")
    source = NoiseSource("0" * 32, 0, 0.25, "grid")
    shards = [Shard(source, Phase.ESTIMATION, start, start + 1) for start in range(3)]
    one, two = Trace("req_1", f"00-{TRACE}-{PARENT}-01"), Trace("req_2")
    work = [SampleTask(image, shards[0], one), SampleTask(image, shards[1], two), SampleTask(image, shards[2], one)]
    await RaySampler("s", Actor, ImageCache(), lambda _: None).sample_many("digits@1", work)
    assert called[2] == [one, two]


class Collector(http.server.BaseHTTPRequestHandler):
    """Stands in for an OpenTelemetry collector: remembers what it was sent."""

    received: list[tuple[str, bytes]] = []  # noqa: RUF012  one for the class is meant

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.received.append((self.path, body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_traces_go_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    collector = http.server.HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=collector.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(otel, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(otel, "_TRACER_PROVIDER_SET_ONCE", type(otel._TRACER_PROVIDER_SET_ONCE)())
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    try:
        assert tracing.configure("spacte-test")
        assert tracing.configure("spacte-test")  # a second call changes nothing
        with tracing.drawing("sampler-0", "digits@1", 500, [Trace("req_1", f"00-{TRACE}-{PARENT}-01")]):
            pass
        provider = otel.get_tracer_provider()
        assert isinstance(provider, TracerProvider)
        provider.force_flush()
        provider.shutdown()
    finally:
        collector.shutdown()
        collector.server_close()
        thread.join()
    path, body = Collector.received[-1]
    assert path == "/v1/traces"
    for part in (b"spacte-test", b"spacte.draw", b"req_1", bytes.fromhex(TRACE), bytes.fromhex(PARENT)):
        assert part in body


def test_nothing_is_sent_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert not tracing.configure("spacte-test")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert not tracing.configure("spacte-test")


def test_a_missing_exporter_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(TracingError, match="pip install opentelemetry-exporter-otlp-proto-http"):
        tracing.configure("spacte-test")
