"""Objects over a socket between two processes of ours, which trust each other: a length, then a pickle."""

import asyncio
import pickle
import socket
import struct
from contextlib import suppress
from typing import Any

_LENGTH = struct.Struct("!Q")


class ClosedError(Exception):
    """The other process has closed the channel, or has ended."""


class Channel:
    """One end. Messages arrive in the order in which they were sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def over(cls, end: socket.socket) -> "Channel":
        """The channel over one end of a pair of sockets."""
        return cls(*await asyncio.open_connection(sock=end))

    def send(self, message: object) -> None:
        """Send a message, unless the channel is closed; it does not wait."""
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        if not self._writer.is_closing():
            self._writer.write(_LENGTH.pack(len(data)))
            self._writer.write(data)

    async def flush(self) -> None:
        """Wait until what was sent has left, or cannot."""
        with suppress(ConnectionError):
            await self._writer.drain()

    async def receive(self) -> Any:
        """The next message. Raises ClosedError."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            return pickle.loads(await self._reader.readexactly(length))  # noqa: S301  from our own process
        except (asyncio.IncompleteReadError, OSError) as error:
            raise ClosedError from error

    def close(self) -> None:
        """Close this end, which the other one sees."""
        self._writer.close()
