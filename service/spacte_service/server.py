"""The gateway as a process: one port, a line when it is ready, a shutdown that finishes what is in flight."""

import asyncio
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from types import FrameType

import structlog
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from spacte_workers import tracing
from spacte_workers.errors import RuntimeFault

from .connections import Connections, Listener
from .gateway import Gateway
from .metrics import Metrics
from .protocol import ServerConfig
from .settings import NetworkSettings, Settings

log = structlog.stdlib.get_logger("spacte.server")

SIGNALS = (signal.SIGINT, signal.SIGTERM)

SWITCH_S = 0.0005
"""Samplers in this process share its interpreter lock: they hold it no longer than this while a request waits.
Chosen: a tenth of Python's default."""
METRICS_CONNECTIONS = 8  # of those who read the metrics at a port of their own; chosen: more than one scraper has
CLOSE_AFTER_S = 2  # for what is still connected after the drain; chosen: an answer is sent in milliseconds


class TlsError(RuntimeFault):
    """Certificate or key cannot be used; the message is for the operator."""


class Server(uvicorn.Server):
    """Uvicorn with a drain: at SIGTERM new work gets 503 while what is in flight is finished.

    It starts the workers itself, once the port is open, and stops them: so health is told from the first moment, a
    failure is the error that it is (`failure`), and a signal ends even a start that takes long. A second signal ends
    the process at once. After a clean shutdown the process exits with 0, where uvicorn itself would die of the signal.
    """

    def __init__(self, config: uvicorn.Config, gateway: Gateway, url: str) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._url = url
        self._drain_until: float | None = None
        self._starting: asyncio.Task[None] | None = None
        self.failure: BaseException | None = None
        """Why the workers could not be started."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port, and begin to start the workers."""
        await super().startup(sockets)
        if not self.should_exit:
            log.info("listening; the models are loading", url=self._url)
            self._starting = asyncio.create_task(self._start())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port and the connections, then let go of the workers."""
        await super().shutdown(sockets)
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        await self._gateway.stop()

    async def _start(self) -> None:
        """Start the workers, and say so."""
        try:
            await self._gateway.start()
        except Exception as error:  # noqa: BLE001  it is raised again where the process ends
            self.failure = error
            return
        finally:
            self._take_signals()  # from the libraries that took them
        if not self._gateway.backend.models():
            folder = str(self._gateway.settings.models)
            log.warning("no model found: give --models the folder that holds the models' folders", models=folder)
        if self._drain_until is None:
            print(f"Serving on {self._url}", flush=True)

    async def on_tick(self, counter: int) -> bool:
        """Leave the main loop once nothing is in flight, or the time for it is up."""
        leave = await super().on_tick(counter)
        if self.failure is not None:
            return True
        if self._drain_until is None:
            return leave
        if time.monotonic() >= self._drain_until:
            self._gateway.tasks.cancel_all()
            return True
        return leave or not self._gateway.drain.in_flight

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  uvicorn's signature
        """Begin to drain; at the second signal, leave."""
        if self._drain_until is not None:
            self.should_exit = self.force_exit = True
        else:
            self._gateway.drain.begin()
            self._drain_until = time.monotonic() + self._gateway.settings.drain_timeout_s

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Handle the signals while serving, and do not raise them again afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {sig: signal.getsignal(sig) for sig in SIGNALS}
        self._take_signals()
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)

    def _take_signals(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for sig in SIGNALS:
                signal.signal(sig, self.handle_exit)


@contextmanager
def named_address(host: str, port: int) -> Generator[None]:
    """Give an error about an address its name, as `filename`."""
    try:
        yield
    except OSError as error:
        error.filename = f"{host} port {port}"
        raise


def bind(host: str, port: int) -> Listener:
    """A bound socket, before anything slow is started.

    Raises OSError: the address is taken or not ours; `filename` names it.
    """
    with named_address(host, port):
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # asyncio switches Nagle's algorithm off only where the protocol is named; with it answers come 40 ms late.
        listener = Listener(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
        return listener


@contextmanager
def metrics_port(metrics: Metrics, settings: NetworkSettings, host: str, port: int) -> Generator[int]:
    """Serve the metrics at a port of their own, which the network can keep from callers: there no key is asked for.

    A thread does, so that they are answered beside a busy gateway; its connections are bounded like the gateway's.

    Yields:
        The port, a free one where 0 is given.

    Raises OSError: the address is taken or not ours; `filename` names it.
    """

    def show(_: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    few = {"max_connections": METRICS_CONNECTIONS, "max_connections_per_address": METRICS_CONNECTIONS}
    plain = settings.model_copy(update=few | {"tls_cert": None, "tls_key": None})
    with bind(host, port) as listener:
        app = Starlette(routes=[Route("/{path:path}", show)])
        server = uvicorn.Server(server_config(app, plain, listener))
        listener.listen()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="metrics")
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def check_tls(settings: NetworkSettings) -> None:
    """See that certificate and key can be used, before anything slow is started.

    Raises TlsError: a file is missing, none of PEM, or the key is another certificate's.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return
    try:
        # A key with a password would ask for it on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert, settings.tls_key, lambda: "")
    except OSError as error:
        raise TlsError(
            f"HTTPS cannot be spoken with {settings.tls_cert} and {settings.tls_key} ({error}); give a certificate "
            "and its own key, unencrypted, as PEM files."
        ) from error


def _with_loopback_names(settings: Settings) -> Settings:
    """Where neither a key nor the network keeps others out, go by the loopback names only."""
    if settings.allowed_hosts is None and settings.loopback and not settings.has_keys:
        return settings.model_copy(update={"allowed_hosts": f"localhost,127.0.0.1,::1,{settings.host}"})
    return settings


def server_config(app: ASGIApp, settings: NetworkSettings, listener: Listener) -> ServerConfig:
    """Uvicorn's settings, with bounds for the connections of a listener."""
    listener.connections = Connections(settings)
    return ServerConfig(
        app,
        listener.connections,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_keep_alive=settings.idle_timeout_s,
        timeout_graceful_shutdown=CLOSE_AFTER_S,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )


def serve(settings: Settings) -> int:
    """Serve until a signal, and return the process's exit code.

    Raises:
        OSError: the address is taken or not ours.
        RuntimeFault: the workers or the store could not be started, or TLS not be set up; for the operator.
        KeysFileError: the API keys cannot be read; the message is for the operator.
    """
    from .app import create_app
    from .logs import configure_logging

    check_tls(settings)
    with ExitStack() as stack:
        listener = stack.enter_context(bind(settings.host, settings.port))
        configure_logging(settings)
        tracing.configure("spacte-gateway")
        if settings.in_process:
            sys.setswitchinterval(SWITCH_S)
        app = create_app(_with_loopback_names(settings))
        gateway: Gateway = app.state.gateway
        if settings.metrics_port is not None:
            stack.enter_context(metrics_port(gateway.metrics, settings, settings.host, settings.metrics_port))
        config = server_config(app, settings, listener)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        scheme = "https" if settings.tls_cert else "http"
        url = f"{scheme}://{host}:{listener.getsockname()[1]}"
        server = Server(config, gateway, url)
        server.run(sockets=[listener])
        if server.failure is not None:
            raise server.failure
    log.info("stopped")
    return 0
