"""HTTP on one connection: uvicorn's, which tells what it waits for, so that the wait can be bounded."""

import asyncio
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .connections import Connection, Connections


class ServerConfig(uvicorn.Config):
    """Uvicorn's settings with bounded connections."""

    def __init__(self, app: Any, connections: Connections, **settings: Any) -> None:
        # uvloop would accept connections past `Listener`, and the parser in C has other hooks.
        super().__init__(app, loop="asyncio", http=BoundedProtocol, **settings)
        self.connections = connections


class BoundedProtocol(H11Protocol):
    """One connection. Uvicorn bounds the idle time between requests; this bounds the rest."""

    _connection: Connection
    _connections: Connections
    _reader_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Uvicorn's, and look up what the listener knows."""
        super().connection_made(transport)
        self._connections = cast("ServerConfig", self.config).connections
        self._connection = self._connections.find(transport.get_extra_info("peername"))
        self._connection.end = transport.abort

    def connection_lost(self, exc: Exception | None) -> None:
        """Uvicorn's, and nothing is waited for."""
        self._stop_watching()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Uvicorn's, and see what is waited for then."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Uvicorn's, and see what is waited for then."""
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        """Uvicorn's, and see that the caller reads on."""
        super().pause_writing()
        self._watch(unsent=-1)

    def resume_writing(self) -> None:
        """Uvicorn's, and see what is waited for then."""
        super().resume_writing()
        self._stop_watching()
        self._look()

    def _look(self) -> None:
        cycle: Any = self.cycle
        if self.flow.write_paused:
            self._connections.work(self._connection)
        elif cycle is None:
            self._connections.await_head(self._connection)
        elif cycle.response_complete:
            self._connections.await_head(self._connection, idle_s=self.timeout_keep_alive)
        elif cycle.more_body and not self.flow.read_paused:
            self._connections.await_body(self._connection)
        else:
            self._connections.work(self._connection)

    def _watch(self, unsent: int) -> None:
        """End the connection where as much is unsent as a while ago. Meanwhile nothing more is written."""
        now = self.transport.get_write_buffer_size()
        if now == unsent:
            self._connections.time_out(self._connection)
        else:
            self._reader_timer = self.loop.call_later(self._connections.write_timeout_s, self._watch, now)

    def _stop_watching(self) -> None:
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None
