"""A sampler on Ray sends its spans by itself, and they belong to the trace of the request that it drew for."""

import http.server
import io
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import numpy as np
import pytest
from opentelemetry import trace as otel
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from spacte_service import Settings, create_app

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Received(NamedTuple):
    """A span as it came to the collector."""

    service: str
    name: str
    trace: str
    parent: str
    attributes: dict[str, Any]


class Collector(http.server.ThreadingHTTPServer):
    """Stands in for an OpenTelemetry collector."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Take)
        self.spans: list[Received] = []
        self.came = threading.Condition()

    def take(self, body: bytes) -> None:
        """Keep the spans of one delivery."""
        for part in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = {each.key: each.value.string_value for each in part.resource.attributes}
            for span in (span for scope in part.scope_spans for span in scope.spans):
                values = {each.key: each.value.string_value or each.value.int_value for each in span.attributes}
                received = Received(
                    resource["service.name"], span.name, span.trace_id.hex(), span.parent_span_id.hex(), values
                )
                with self.came:
                    self.spans.append(received)
                    self.came.notify_all()


class Take(http.server.BaseHTTPRequestHandler):
    """Hands each delivery to the collector."""

    server: Collector

    def do_POST(self) -> None:
        self.server.take(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector; its address is in the environment of the samplers, because it is in that of the gateway."""
    server = Collector()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def gateway_spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What this process, the gateway's, traces."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(otel, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


def image() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros((1, 8, 8), np.uint8))
    return file.getvalue()


async def test_the_span_of_a_remote_sampler_has_the_request_s_trace_id(
    collector: Collector, gateway_spans: InMemorySpanExporter, tmp_path: Path, make_checkpoint: Callable[..., str]
) -> None:
    make_checkpoint(tmp_path / "models" / "digits")
    settings = Settings(models=tmp_path / "models", data_dir=tmp_path / "data", precision="fp32", samplers=1)
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://testserver") as http:
            answer = await http.post(
                "/v1/certify",
                files={"image": ("d.npy", image())},
                data={"params": '{"n": 300}'},
                headers={"traceparent": f"00-{TRACE}-{CALLER}-01", "X-Request-ID": "req_remote"},
            )
        assert answer.status_code == 200, answer.text

        def drawn() -> list[Received]:
            return [span for span in collector.spans if span.name == "spacte.draw"]

        with collector.came:
            # Every noise of the certificate: 100 to select and 300 to estimate.
            assert collector.came.wait_for(
                lambda: sum(span.attributes["spacte.noises"] for span in drawn()) >= 400, 60
            ), collector.spans
    ours = {f"{span.context.span_id:016x}" for span in gateway_spans.get_finished_spans() if span.context}
    for span in drawn():
        assert span.service == "spacte-sampler"
        assert span.trace == TRACE
        assert span.parent in ours
        assert span.attributes["spacte.request_id"] == "req_remote"
        assert not span.attributes["spacte.sampler"].startswith(f"sampler {os.getpid()} ")
    assert not [span for span in gateway_spans.get_finished_spans() if span.name == "spacte.draw"]
