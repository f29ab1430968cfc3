"""Memory for the bodies of all requests together, and its way back to the system."""

import asyncio
import ctypes
import sys
from collections.abc import Generator
from contextlib import contextmanager

from .problems import ProblemError

SMALL_BYTES = 1 << 20
"""Bodies up to this size may take the last part of the memory, and count as they come. A larger one takes at once what
it is to have, so that of many only the last are refused. Chosen: few pictures are larger."""

VALUE_BYTES, CONTAINER_BYTES = 64, 320
"""Memory that a value of a JSON text takes at most once it is parsed, and a list or an object beside its values. Of
texts of 16 MiB: numbers took 48, short names 64, objects with one member 300."""
TEXT_FACTORS = 3, 9
"""Memory for the characters of a JSON text by its size: for the text, the values cut from it and what base64 stands
for; the larger one where a character may need more than a byte, as Python then gives all of them four."""

FOR_SMALL = 1 / 8  # the part that larger bodies leave free; chosen: hundreds of small ones
RETRY_AFTER_S = 2.0  # chosen: a body of 16 MiB is decoded and its picture on its way in less

TRIM_BYTES, TRIM_EVERY_S = 16 << 20, 1.0
"""Freed memory goes back to the system once so many bytes of bodies are done with, and no more often than this.
Chosen: to look for it takes milliseconds, and a few bodies are not worth them."""


class BodyBudget:
    """How much of the memory for bodies is taken.

    Args:
        total: bytes that all bodies may have together.

    Attributes:
        used: bytes that they have.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self.for_large = int(total * (1 - FOR_SMALL))
        self._freed = 0
        self._trimming: asyncio.TimerHandle | None = None

    @contextmanager
    def body(self, expected: int) -> "Generator[Body]":
        """A body that is to have so many bytes, from the first of them until its request has been answered."""
        body = Body(self, expected)
        try:
            yield body
        finally:
            self.free(body.size)

    def free(self, size: int) -> None:
        """Bytes are done with."""
        self.used -= size
        self._freed += size
        if self._freed >= TRIM_BYTES and self._trimming is None:
            self._trimming = asyncio.get_running_loop().call_later(TRIM_EVERY_S, self._trim)

    def _trim(self) -> None:
        self._trimming, self._freed = None, 0
        asyncio.get_running_loop().run_in_executor(None, return_freed_memory)


class Body:
    """One body.

    Attributes:
        size: bytes that it counts.
    """

    def __init__(self, budget: BodyBudget, expected: int) -> None:
        self._budget = budget
        self._expected = expected
        self.size = 0

    def grow(self, read: int) -> None:
        """Count the bytes that have come, `read` so far. Raises ProblemError: 429, there is no memory for them."""
        size, total = read, self._budget.total
        if read > SMALL_BYTES:
            size, total = max(read, self._expected), self._budget.for_large
        if self._budget.used - self.size + size > total:
            raise _no_memory()
        self._budget.used += size - self.size
        self.size = size

    @contextmanager
    def parsing(self, raw: bytes) -> "Generator[None]":
        """While a JSON text is parsed, which takes more memory than the text.

        Raises ProblemError: 413, that is more than there is in all; 429, there is not as much just now.
        """
        size = parsing_bytes(raw)
        most = self._budget.total if len(raw) <= SMALL_BYTES else self._budget.for_large
        if self.size + size > most:
            sentence = (
                "The JSON has too many values for the memory there is: send the image as a file, or fewer values."
            )
            raise ProblemError("payload_too_large", sentence)
        if self._budget.used + size > most:
            raise _no_memory()
        self._budget.used += size
        try:
            yield
        finally:
            self._budget.free(size)


def parsing_bytes(raw: bytes) -> int:
    """Memory that parsing a JSON text takes, at most."""
    plain, wide = TEXT_FACTORS
    text = len(raw) * (plain if raw.isascii() and b"\\u" not in raw else wide)
    return text + VALUE_BYTES * raw.count(b",") + CONTAINER_BYTES * containers(raw)


def containers(raw: bytes | str) -> int:
    """How many lists and objects a JSON text begins, at most."""
    return raw.count(b"[") + raw.count(b"{") if isinstance(raw, bytes) else raw.count("[") + raw.count("{")


def _no_memory() -> ProblemError:
    sentence = f"There is no memory for a body of this size just now; try again in {RETRY_AFTER_S:g} s."
    return ProblemError("overloaded", sentence, retry_after_s=RETRY_AFTER_S)


def return_freed_memory() -> None:
    """Have the C library give the pages that it has freed back to the system; other libraries do so by themselves."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(0)
