"""One decoding process, as its parent sees it.

Requests are pickles. Answers are JSON, and bytes where there are any, because what a stranger sent may have taken the
process over by then.
"""

import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import weakref
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

_log = logging.getLogger(__name__)

TASKS = "spacte_workers.decoding.tasks"
"""The module whose `Tasks` the process does."""

CRASH_S = 0.1  # chosen: the system takes milliseconds to end a process that has crashed
START_S = 60.0  # chosen: the modules are imported in half a second, on a machine that swaps in many
HEAD_BYTES = 64 << 10
"""Longest JSON of an answer. Chosen: a sentence, a name and a few numbers are far shorter."""

_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "TMPDIR")
"""Variables that the process sees: the others may be secrets."""

_LEAN = {"OPENBLAS_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
_LEAN |= {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}
"""Keeps the process small: no threads for linear algebra, and what is freed goes back to the system at once."""


class DecoderLostError(Exception):
    """The process ended, or took too much time or memory; it was given up."""


class Answer(NamedTuple):
    """What a task gave.

    Attributes:
        fields: of its JSON.
        data: its bytes.
    """

    fields: dict[str, Any]
    data: bytes


class DecodingProcess:
    """A process that does one task at a time. It starts at once; the first task waits until it is up.

    Args:
        memory_bytes: what a task may take.
        tasks: module with the class `Tasks`.

    Attributes:
        ended: whether it is of no use any more.
    """

    def __init__(self, memory_bytes: int, tasks: str = TASKS) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "spacte_workers.decoding.child", str(theirs.fileno()), str(memory_bytes)]
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        with theirs:
            # A session of its own: Ctrl-C is for the parent, which ends its decoders.
            self._process = subprocess.Popen(  # noqa: S603  our own module
                [*command, tasks],
                env=kept | _LEAN,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
            )
        patience = struct.pack("ll", int(START_S), 0)  # within a message: one that stops half-way ends the call
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        self._connection = Connection(ours.detach())
        self._up = False
        self.ended = False
        self._abandoned = weakref.finalize(self, _abandon, self._process, self._connection)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def call(self, task: str, *arguments: Any, seconds: float, most_bytes: int) -> Answer:
        """Do a task in the process.

        Args:
            task: name of a method of its `Tasks`.
            arguments: of the method.
            seconds: that it may take.
            most_bytes: of data that it may give.

        Raises:
            DecoderLostError: the process is gone now.
        """
        try:
            if not self._up:
                self._up = True
                started = self._receive(START_S, 0)
                if not started.fields["confined"]:
                    _log.warning("Decoding processes are not kept from the network: this system has no seccomp filter.")
            self._connection.send((task, arguments, seconds))
            return self._receive(seconds, most_bytes)
        except (EOFError, OSError, ValueError, TypeError, KeyError) as error:
            reason = self._end()
            _log.warning("A decoding process was given up at %s: %s.", task, reason)
            raise DecoderLostError(reason) from error
        except BaseException:
            self._end()
            raise

    def close(self) -> None:
        """End the process."""
        self.ended = True
        self._abandoned()

    def _receive(self, seconds: float, most_bytes: int) -> Answer:
        if not self._connection.poll(seconds):
            raise TimeoutError
        fields = json.loads(self._connection.recv_bytes(HEAD_BYTES))
        data = self._connection.recv_bytes(most_bytes) if fields.get("bytes") else b""
        return Answer(fields, data)

    def _end(self) -> str:
        """End the process; how it had ended before, for the log."""
        self.ended = True
        try:
            code = self._process.wait(CRASH_S)  # where it has crashed, its own reason is to be seen
        except subprocess.TimeoutExpired:
            code = None
        self._abandoned()
        if code is None:
            return "it did not answer in time"
        return f"it ended with {signal.Signals(-code).name}" if code < 0 else f"it ended with exit code {code}"


def _abandon(process: subprocess.Popen[bytes], connection: Connection) -> None:
    """What is left to do for a process that nobody refers to any more, and at the end of the interpreter."""
    connection.close()
    process.kill()
    process.wait()
