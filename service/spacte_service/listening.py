"""The address that the gateway listens at, and uvicorn's settings for it. Light to import."""

import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from .connections import Connections, Listener
from .protocol import ServerConfig
from .settings import NetworkSettings

CLOSE_AFTER_S = 2  # for what is still connected after the drain; chosen: an answer is sent in milliseconds


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


def server_config(app: Any, settings: NetworkSettings, listener: Listener) -> ServerConfig:
    """Uvicorn's settings for an ASGI application, with bounds for the connections of a listener."""
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
