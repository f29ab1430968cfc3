"""Traces: which request noise is drawn for, as an id and an OpenTelemetry context that travel to the samplers.

Both are plain strings beside each task, so a span of a sampler in another process on another machine is a child of the
request that it was drawn for. Without a tracer provider all of this does nothing. `configure` makes one from the
environment variables that OpenTelemetry defines.
"""

import logging
import os
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass

from opentelemetry import trace as otel
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .errors import RuntimeFault

_log = logging.getLogger(__name__)
_PROPAGATOR = TraceContextTextMapPropagator()
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class TracingError(RuntimeFault):
    """Traces were asked for and cannot be sent; the message is for the operator."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Which request a task is for.

    Attributes:
        request_id: `req_...`, as in the logs of the gateway.
        traceparent: the W3C header of that name (Trace Context, section 3.2); empty where nobody traces.
    """

    request_id: str
    traceparent: str = ""


_request: ContextVar[str | None] = ContextVar("spacte_request_id", default=None)


def begin(request_id: str) -> Token[str | None]:
    """Everything that the current asyncio task asks for from now on is for this request; `end` takes the token."""
    return _request.set(request_id)


def end(token: Token[str | None]) -> None:
    """The request is answered."""
    _request.reset(token)


def current() -> Trace | None:
    """The request that the current asyncio task works for; None outside of requests."""
    request_id = _request.get()
    if request_id is None:
        return None
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return Trace(request_id, carrier.get("traceparent", ""))


@contextmanager
def drawing(sampler: str, model: str, noises: int, traces: Sequence[Trace]) -> Generator[None]:
    """Around a call to a sampler: a span below each request that has a part in it, and a log line with their ids.

    `noises` are those of all requests together.
    """
    ids, started = ", ".join(trace.request_id for trace in traces), time.time_ns()
    try:
        yield
    except Exception:
        _log.warning("%s failed to draw %d noises of %s for %s.", sampler, noises, model, ids)
        raise
    finally:
        ended, tracer = time.time_ns(), otel.get_tracer("spacte_workers")
        attributes = {"spacte.sampler": sampler, "spacte.model": model, "spacte.noises": noises}
        for trace in traces:
            context = _PROPAGATOR.extract({"traceparent": trace.traceparent})
            named = attributes | {"spacte.request_id": trace.request_id}
            tracer.start_span("spacte.draw", context, start_time=started, attributes=named).end(ended)
        seconds = (ended - started) / 1e9
        _log.debug("%s drew %d noises of %s in %.3f s for %s.", sampler, noises, model, seconds, ids)


def configure(service: str) -> bool:
    """Send traces where `OTEL_EXPORTER_OTLP_ENDPOINT` says, unless somebody configured tracing before.

    `service` names this process in traces, unless `OTEL_SERVICE_NAME` does. Returns whether traces are sent.

    Raises:
        TracingError: the exporter is not installed.
    """
    wanted = any(os.environ.get(name) for name in _ENDPOINTS)
    if not wanted or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise TracingError(
            f"OTEL_EXPORTER_OTLP_ENDPOINT is set, but the exporter is missing ({error}): install it with "
            "`pip install opentelemetry-exporter-otlp-proto-http`, or unset the variable."
        ) from error
    if isinstance(otel.get_tracer_provider(), TracerProvider):
        return True
    name = os.environ.get("OTEL_SERVICE_NAME") or service
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    otel.set_tracer_provider(provider)
    return True
