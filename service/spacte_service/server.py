"""The gateway as a process: one port, a line when it is ready, a shutdown that finishes what is in flight."""

import asyncio
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import structlog
import uvicorn

from spacte_workers.errors import RuntimeFault

from .listening import bind, server_config
from .opening import Opening
from .settings import NetworkSettings, Settings

if TYPE_CHECKING:  # its libraries take a second to import
    from .gateway import Gateway

log = structlog.stdlib.get_logger("spacte.server")

SIGNALS = (signal.SIGINT, signal.SIGTERM)

SWITCH_S = 0.0005
"""Samplers in this process share its interpreter lock: they hold it no longer than this while a request waits.
Chosen: a tenth of Python's default."""


class TlsError(RuntimeFault):
    """Certificate or key cannot be used; the message is for the operator."""


class Server(uvicorn.Server):
    """Uvicorn with a drain: at SIGTERM new work gets 503 while what is in flight is finished.

    It makes and starts the gateway itself, once the port is open, and stops it: so health is told from the first
    moment, a failure is the error that it is (`failure`), and a signal ends even a start that takes long. A second
    signal ends the process at once. After a clean shutdown the process exits with 0, where uvicorn itself would die of
    the signal.

    Args:
        config: uvicorn's.
        make: makes the gateway; called in a thread.
        settings: the gateway's.
        url: what it is reached by.
    """

    def __init__(self, config: uvicorn.Config, make: "Callable[[], Gateway]", settings: Settings, url: str) -> None:
        super().__init__(config)
        self._make = make
        self._settings = settings
        self._url = url
        self._gateway: Gateway | None = None
        self._drain_until: float | None = None
        self._starting: asyncio.Task[None] | None = None
        self.failure: BaseException | None = None
        """Why the workers could not be started."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port, and begin to start the workers."""
        await super().startup(sockets)
        if not self.should_exit:
            self._starting = asyncio.create_task(self._start())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port and the connections, then let go of the workers."""
        await super().shutdown(sockets)
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        if self._gateway is not None:
            await self._gateway.stop()

    async def _start(self) -> None:
        """Make the gateway, start its workers, and say so."""
        try:
            self._gateway = gateway = await asyncio.to_thread(self._make)
            await gateway.open()
            log.info("listening; the models are loading", url=self._url)
            await gateway.start()
        except Exception as error:  # noqa: BLE001  it is raised again where the process ends
            self.failure = error
            return
        finally:
            self._take_signals()  # from the libraries that took them
        if not gateway.backend.models():
            folder = str(self._settings.models)
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
        if self._gateway is None:
            return True
        if time.monotonic() >= self._drain_until:
            self._gateway.tasks.cancel_all()
            return True
        return leave or not self._gateway.drain.in_flight

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  uvicorn's signature
        """Begin to drain; at the second signal, leave."""
        if self._drain_until is not None:
            self.should_exit = self.force_exit = True
        else:
            if self._gateway is not None:
                self._gateway.drain.begin()
            self._drain_until = time.monotonic() + self._settings.drain_timeout_s

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


class ModelsFolderError(RuntimeFault):
    """There is no folder of models; the message is for the operator."""


def check_models(folder: Path) -> None:
    """See that there is a folder of models; it may be empty. Raises ModelsFolderError."""
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        raise ModelsFolderError(f"{folder} {what}: name the folder that holds the models' folders with --models.")


def _with_loopback_names(settings: Settings) -> Settings:
    """Where neither a key nor the network keeps others out, go by the loopback names only."""
    if settings.allowed_hosts is None and settings.loopback and not settings.has_keys:
        return settings.model_copy(update={"allowed_hosts": f"localhost,127.0.0.1,::1,{settings.host}"})
    return settings


def serve(settings: Settings) -> int:
    """Serve until a signal, and return the process's exit code.

    Raises:
        OSError: the address is taken or not ours.
        RuntimeFault: there is no folder of models, TLS cannot be set up, or workers or store could not be started; for
            the operator.
        KeysFileError: the API keys cannot be read; the message is for the operator.
    """
    from .logs import configure_logging

    check_tls(settings)
    if not settings.model_sources:
        check_models(settings.models)
    with ExitStack() as stack:
        listener = stack.enter_context(bind(settings.host, settings.port))
        configure_logging(settings)
        if settings.in_process:
            sys.setswitchinterval(SWITCH_S)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        scheme = "https" if settings.tls_cert else "http"
        url = f"{scheme}://{host}:{listener.getsockname()[1]}"
        opening = Opening()
        config = server_config(opening, settings, listener)
        server = Server(config, partial(_make, settings, opening, stack), settings, url)
        server.run(sockets=[listener])
        if server.failure is not None:
            raise server.failure
    log.info("stopped")
    return 0


def _make(settings: Settings, opening: Opening, stack: ExitStack) -> "Gateway":
    """The gateway behind an open port; what is to be closed at the end goes on the stack."""
    from spacte_workers import tracing

    from .app import create_app
    from .metrics_port import metrics_port

    tracing.configure("spacte-gateway")
    app = create_app(_with_loopback_names(settings))
    gateway: Gateway = app.state.gateway
    if settings.metrics_port is not None:
        stack.enter_context(metrics_port(gateway.metrics, settings, settings.host, settings.metrics_port))
    opening.app = app
    return gateway
