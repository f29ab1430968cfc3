"""How many connections there may be, in all and of one address, and how long one may keep the gateway waiting.

Where there are as many as there may be, a new one takes the place of one whose next bytes have been waited for long:
callers who send what they have to say are answered, however many others say nothing. A connection whose answer is
being made or sent is never given up for another, nor is one whose first bytes nobody has looked for yet.
"""

import asyncio
import errno
import resource
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from typing import Any

import structlog

from .settings import NetworkSettings

log = structlog.stdlib.get_logger("spacte.connections")

CLOSING = 8
"""Connections that were given up and are not closed yet, and so those that come in their places at one turn of the
loop. Chosen: few, so that one turn of the loop stays short."""
REFUSED = 16
"""Connections that were told 503 and may still be reading it. Chosen: a refusal is read within a millisecond or two."""
LINGER_S = 1.0
"""Time for reading a refusal. Chosen: a few round trips."""
FRESH_S = 1.0
"""Time for which a silent connection is no worse than one whose body is on its way. Chosen: a request's first bytes
follow its connection within a round trip or two, those of TLS within two more."""
TURNS_UNTIL_READ = 4
"""Turns of asyncio's loop from an acceptance until bytes that had come by then are read: the task that makes the
transport, the transport's reader, the system's report, the read."""
DESCRIPTORS_KEPT = 64 + CLOSING + REFUSED
"""Files and sockets that are not a connection's. Chosen: a gateway with store, job and Ray process has about 40."""
SHARE_OF_CONNECTIONS = 0.75
"""Of the other descriptors. Chosen: every third connection may have a file for its body, those of over a megabyte."""
IPV6_PREFIX = 64
"""Bits of an address that stand for one network (RFC 4291, section 2.5.4): who has one has all addresses in it."""
LOG_EVERY_S = 1.0
NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n"
    b"connection: close\r\n\r\n"
    b'{"type":"about:blank","title":"Service Unavailable","status":503,"code":"overloaded",'
    b'"detail":"There are too many connections; come back in a second."}'
)


@dataclass(eq=False)
class Connection:
    """One connection, from its acceptance on.

    Attributes:
        network: what `network_of` gives for its address.
        end: ends it at once.
        since: when its next bytes began to be waited for, on the clock of the loop.
        timer: ends it when its time is up.
    """

    network: str
    end: Callable[[], None]
    since: float = 0.0
    timer: asyncio.TimerHandle | None = None


@dataclass(eq=False)
class Group:
    """Connections that share a bound: all, or those of one network. The two queues have the longest waiting first."""

    open: set[Connection] = field(default_factory=set[Connection])
    silent: dict[Connection, None] = field(default_factory=dict[Connection, None])
    sending: dict[Connection, None] = field(default_factory=dict[Connection, None])

    def next_to_end(self, now: float) -> Connection | None:
        """The one that gives its place to a new one; None where all are at work or have not been read yet.

        That is the longest silent, which has sent no whole head of a request, where that took it `FRESH_S`. Where
        all silent ones are fresh, it is the longest waiting of the larger queue: of the silent in a flood of new
        connections, and of those whose body is on its way where they hold most places.
        """
        longest_silent, longest_sending = next(iter(self.silent), None), next(iter(self.sending), None)
        if longest_silent is None or longest_sending is None:
            return longest_silent or longest_sending
        silent_first = now - longest_silent.since >= FRESH_S or len(self.silent) >= len(self.sending)
        return longest_silent if silent_first else longest_sending


class Connections:
    """All connections of a gateway, and their bounds. Used from its event loop alone."""

    def __init__(self, settings: NetworkSettings) -> None:
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - DESCRIPTORS_KEPT
        room = int(descriptors * SHARE_OF_CONNECTIONS)
        self.most = max(1, min(settings.max_connections, room))
        self.most_of_a_network = max(1, self.most * settings.max_connections_per_address // settings.max_connections)
        self.write_timeout_s = settings.write_timeout_s
        self._head_timeout_s = settings.head_timeout_s
        self._all = Group()
        self._networks: dict[str, Group] = {}
        self._by_peer: dict[Any, Connection] = {}
        self._events = Events()
        self.refusals = Refusals()

    @property
    def descriptors(self) -> int:
        """Sockets that are not closed yet."""
        return len(self._by_peer)

    def admit(self, peer: tuple[Any, ...], end: Callable[[], None]) -> bool:
        """Take a connection in, perhaps in another one's place; False where no other one can be ended for it."""
        loop = asyncio.get_running_loop()
        network = network_of(str(peer[0]))
        of_network = self._networks.get(network) or Group()
        for group, most in ((of_network, self.most_of_a_network), (self._all, self.most)):
            if len(group.open) < most:
                continue
            ended = group.next_to_end(loop.time())
            if ended is None:
                self._events.count("refused")
                return False
            self._events.count("ended")
            self.give_up(ended)
        self._networks[network] = of_network
        connection = self._by_peer[peer] = Connection(network, end)
        for group in (self._all, of_network):
            group.open.add(connection)
        connection.timer = loop.call_later(self._head_timeout_s, self.time_out, connection)
        loop.call_soon(self._await_first_bytes, connection, TURNS_UNTIL_READ)
        return True

    def find(self, peer: Any) -> Connection:
        """The connection with a peer (`getpeername`)."""
        return self._by_peer[peer]

    def await_head(self, connection: Connection, idle_s: float = 0.0) -> None:
        """A request's head is waited for, which may begin `idle_s` from now; where it is already, nothing changes."""
        if connection in self._all.open and connection not in self._all.silent:
            loop = asyncio.get_running_loop()
            self._stop_waiting(connection)
            for group in self._groups(connection):
                group.silent[connection] = None
            connection.since = loop.time()
            connection.timer = loop.call_later(idle_s + self._head_timeout_s, self.time_out, connection)

    def await_body(self, connection: Connection) -> None:
        """A request's body is waited for, which has its own time limit (`bodies.py`)."""
        if connection in self._all.open and connection not in self._all.sending:
            self._stop_waiting(connection)
            for group in self._groups(connection):
                group.sending[connection] = None

    def work(self, connection: Connection) -> None:
        """A request has arrived, and its answer is being made or sent."""
        self._stop_waiting(connection)

    def give_up(self, connection: Connection) -> None:
        """End a connection; it counts no longer, and its descriptor until it is closed."""
        self._leave(connection)
        connection.end()

    def time_out(self, connection: Connection) -> None:
        """End a connection that had its time."""
        self._events.count("timed_out")
        self.give_up(connection)

    def forget(self, peer: Any) -> None:
        """A socket was closed."""
        connection = self._by_peer.pop(peer, None)
        if connection is not None:
            self._leave(connection)

    def out_of_descriptors(self) -> None:
        """The system gave no descriptor for a connection."""
        self._events.count("no_descriptor")

    def _await_first_bytes(self, connection: Connection, turns: int) -> None:
        """Count a new connection among the silent, once what came with it has been read."""
        if connection.timer is None:  # more than a head has come, or it was closed
            return
        if turns > 1:
            asyncio.get_running_loop().call_soon(self._await_first_bytes, connection, turns - 1)
        else:
            self.await_head(connection)

    def _groups(self, connection: Connection) -> tuple[Group, ...]:
        of_network = self._networks.get(connection.network)
        return (self._all,) if of_network is None else (self._all, of_network)

    def _stop_waiting(self, connection: Connection) -> None:
        if connection.timer is not None:
            connection.timer.cancel()
            connection.timer = None
        for group in self._groups(connection):
            group.silent.pop(connection, None)
            group.sending.pop(connection, None)

    def _leave(self, connection: Connection) -> None:
        self._stop_waiting(connection)
        for group in self._groups(connection):
            group.open.discard(connection)
            if not group.open and group is not self._all:
                del self._networks[connection.network]


class Events:
    """Counts what happens to connections, and logs it once a second at most: callers choose how often it happens."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._logged = -LOG_EVERY_S

    def count(self, what: str) -> None:
        """One more."""
        self._counts[what] = self._counts.get(what, 0) + 1
        if time.monotonic() >= self._logged + LOG_EVERY_S:
            self._logged = time.monotonic()
            log.warning("connections given up", **self._counts)
            self._counts = {}


class Refusals:
    """Connections that are told 503. They are closed after their callers: what is closed before its bytes are read is
    reset, and a caller who is reset may not see the answer. One more than `REFUSED` takes the place of the oldest."""

    def __init__(self) -> None:
        self._timers: dict[socket.socket, asyncio.TimerHandle] = {}

    def refuse(self, refused: socket.socket) -> None:
        """Say why, and close it once the caller has closed it or `LINGER_S` are over."""
        try:
            refused.send(REFUSAL)
            refused.shutdown(socket.SHUT_WR)
        except OSError:  # nobody listens
            refused.close()
            return
        if len(self._timers) >= REFUSED:
            self._close(next(iter(self._timers)))
        loop = asyncio.get_running_loop()
        self._timers[refused] = loop.call_later(LINGER_S, self._close, refused)
        loop.add_reader(refused, self._read, refused)

    def _read(self, refused: socket.socket) -> None:
        try:
            if refused.recv(1 << 16):
                return
        except BlockingIOError:
            return
        except OSError:  # the caller has reset it
            pass
        self._close(refused)

    def _close(self, refused: socket.socket) -> None:
        self._timers.pop(refused).cancel()
        asyncio.get_running_loop().remove_reader(refused)
        refused.close()


class Listener(socket.socket):
    """A listening socket for `asyncio`, whose connections are bounded from their acceptance on.

    In the protocol it would be too late: of a full queue asyncio accepts two thousand before the first protocol sees
    its own, and a TLS handshake comes before that.
    """

    connections: Connections | None = None
    _paused_until = 0.0

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection that is taken in.

        Raises:
            BlockingIOError: there is none now. It ends asyncio's loop, which comes back at its next turn.
            OSError: the system gives no descriptor; asyncio then pauses for a second.
        """
        connections = self.connections
        if connections is None:
            return super().accept()
        if connections.descriptors >= connections.most + CLOSING or time.monotonic() < self._paused_until:
            raise BlockingIOError  # those that were given up are closed first; asyncio goes on after an error
        try:
            accepted, peer = super().accept()
        except OSError as error:
            if error.errno in NO_DESCRIPTORS:
                connections.out_of_descriptors()
                self._paused_until = time.monotonic() + LOG_EVERY_S / 2
            raise
        accepted.setblocking(False)
        bounded = BoundedSocket(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        if not connections.admit(peer, bounded.end):
            connections.refusals.refuse(bounded)
            raise BlockingIOError
        bounded.connections, bounded.peer = connections, peer
        return bounded, peer


class BoundedSocket(socket.socket):
    """The socket of a connection, which tells when it is closed."""

    connections: Connections | None = None
    peer: Any = None

    def close(self) -> None:
        """Close it."""
        super().close()
        if self.connections is not None:
            self.connections.forget(self.peer)
            self.connections = None

    def end(self) -> None:
        """Have asyncio read the connection's end."""
        try:
            self.shutdown(socket.SHUT_RDWR)
        except OSError:  # the peer has closed it
            return


def network_of(address: str) -> str:
    """What is counted as one address: an IPv4 address, the /64 of an IPv6 address."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(IPv6Address(int(found) >> (128 - IPV6_PREFIX) << (128 - IPV6_PREFIX)))
