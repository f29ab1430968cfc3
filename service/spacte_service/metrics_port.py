"""The metrics at a port of their own."""

import threading
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .listening import bind, server_config
from .metrics import Metrics
from .settings import NetworkSettings

METRICS_CONNECTIONS = 8  # chosen: more than one scraper has


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
