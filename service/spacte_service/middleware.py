"""What surrounds every request: its id, log line and security headers, and an answer when all else fails."""

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.formparsers import MultiPartParser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spacte_workers import tracing

from .body_budget import BodyBudget
from .disconnects import ClientDisconnectedError
from .ids import new_id
from .metrics import Metrics
from .open_streams import OpenStream
from .packed_bodies import packings
from .problems import ProblemError, ProblemResponse, internal
from .storage_faults import storage_problem

log = structlog.stdlib.get_logger("spacte.http")

CLIENT_CLOSED_REQUEST = 499  # nginx's status in the log for a client that disconnected before the answer

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""What a caller's `X-Request-ID` may be; anything else is replaced, so that it cannot forge a log line."""

STRICT_TRANSPORT = "max-age=31536000"  # a year, as RFC 6797 shows it

METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")

SECURITY_HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


@dataclass
class NotedBody:
    """What a request's body comes through: `broken_off` once its caller has left before the end of it."""

    _receive: Receive
    _arriving: bool = True
    broken_off: bool = False

    async def receive(self) -> Message:
        """The next message."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._arriving = message.get("more_body", False)
        else:
            self.broken_off = self._arriving
        return message


@dataclass(frozen=True)
class RequestContext:
    """ASGI middleware that names each request, logs and counts it, and turns a crash into a problem document."""

    app: ASGIApp
    metrics: Metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; other scopes (lifespan) pass unchanged."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else new_id("req")
        began = time.perf_counter()
        scope.setdefault("state", {}).update(request_id=request_id, arrived=began)
        status, body = 0, NotedBody(receive)

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if scope["scheme"] == "https":
                    headers.setdefault("Strict-Transport-Security", STRICT_TRANSPORT)
            await send(message)

        token = tracing.begin(request_id)
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, body.receive, send_named)
            except ClientDisconnectedError:
                status = CLIENT_CLOSED_REQUEST
            except asyncio.CancelledError:
                stream: OpenStream | None = scope["state"].get("stream")
                if not (stream and stream.revoked):
                    raise
                stream.request.uncancel()  # the connection is closed before the answer is whole
                log.info("a stream ended with its key", path=scope["path"])
            except Exception as error:
                problem = storage_problem(error)
                if problem is None:
                    log.exception("request failed", method=scope["method"], path=scope["path"])
                else:
                    log.warning("storage failed", path=scope["path"], error=type(error).__name__, reason=problem.detail)
                if status:
                    raise
                await ProblemResponse(problem or internal(), scope)(scope, receive, send_named)
            finally:
                seconds = time.perf_counter() - began
                method = scope["method"] if scope["method"] in METHODS else "other"
                # The template of the route that answered; one label for all paths that none did.
                route = getattr(scope.get("route"), "path", "unmatched")
                self.metrics.answered(route, method, status, seconds)
                fields = {"path": scope["path"], "status": status, "elapsed_ms": round(1000 * seconds, 1)}
                # Whoever breaks off while sending could fill the log with it; `connections.py` counts some of them.
                write = log.debug if body.broken_off else log.info
                write("request", method=scope["method"], **fields)
                tracing.end(token)


@dataclass(frozen=True)
class AddressCheck:
    """ASGI middleware that refuses paths and queries with a NUL character, which databases and file systems do."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 400."""
        if scope["type"] == "http" and ("\0" in scope["path"] or b"%00" in scope["query_string"]):
            error = ProblemError("bad_request", "The address has a NUL character; leave that out.")
            await ProblemResponse(error, scope)(scope, receive, send)
            return
        await self.app(scope, receive, send)


@dataclass(frozen=True)
class BodyLimit:
    """ASGI middleware that refuses a body of more bytes than a limit, or than there is memory for, while it arrives.

    Starlette's own answers a body whose length is declared with plain text, and not with a problem document.
    `uploads` is the limit of files, below the path of that name; they are written to disk as they come.
    """

    app: ASGIApp
    limit: int
    uploads: int
    budget: BodyBudget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what the route reads, and raise a 413 where it reads past the limit."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        coding = Headers(scope=scope).get("content-encoding", "identity").strip().lower()
        if coding not in ("", "identity", *packings(scope["path"])):
            sentence = f"Send the body as it is, without `Content-Encoding: {coding[:32]}`; the gateway unpacks none."
            error = ProblemError("unsupported_media_type", sentence)
            await ProblemResponse(error, scope)(scope, receive, send)
            return
        is_upload = scope["path"].startswith("/v1/files")
        limit = self.uploads if is_upload else self.limit
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            # Answered before the body is read: the server discards what still arrives.
            error = _too_large(limit)
            await ProblemResponse(error, scope)(scope, receive, send)
            return
        read = 0

        with self.budget.body(int(declared) if declared.isdigit() else limit) as body:
            scope["state"]["body"] = body  # for `bodies.py`

            async def receive_counted() -> Message:
                nonlocal read
                message = await receive()
                if message["type"] == "http.request":
                    read += len(message.get("body", b""))
                    if read > limit:
                        raise _too_large(limit)
                    body.grow(min(read, MultiPartParser.spool_max_size) if is_upload else read)
                return message

            await self.app(scope, receive_counted, send)


def _too_large(limit: int) -> ProblemError:
    return ProblemError("payload_too_large", f"Send a body of at most {limit:,} bytes; this one is larger.")
