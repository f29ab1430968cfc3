"""`/metrics` on a port of its own, which the network can keep from the callers: there no key is asked for."""

import asyncio
import socket
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .metrics import Metrics


class MetricsServer:
    """A second server on the gateway's event loop.

    Args:
        metrics: what is shown.
        listener: a bound socket.
    """

    def __init__(self, metrics: Metrics, listener: socket.socket) -> None:
        async def text(_: Request) -> Response:
            return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

        app = Starlette(routes=[Route("/metrics", text)])
        config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, server_header=False)
        self._server = _Unsignalled(config)
        self._listener = listener
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to answer."""
        self._task = asyncio.create_task(self._server.serve([self._listener]))

    async def stop(self) -> None:
        """Answer no more."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task


class _Unsignalled(uvicorn.Server):
    """Leaves the signals to the gateway, which stops it."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Capture none."""
        yield
