"""Python's garbage collector of cycles, put off while much is made that stays."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class _Blocks:
    """Those of this process: how many are open, and whether the collector was on before the first of them."""

    open: int = 0
    was_on: bool = True
    lock: threading.Lock = field(default_factory=threading.Lock)


_blocks = _Blocks()


@contextmanager
def collecting_later() -> Iterator[None]:
    """Look for no cycles in this process during the block; blocks of several threads may overlap.

    Modules and networks stay, so that to look through them again and again is in vain: a quarter of the time in which
    torch is imported and a program read.
    """
    with _blocks.lock:
        if not _blocks.open:
            _blocks.was_on = gc.isenabled()
            gc.disable()
        _blocks.open += 1
    try:
        yield
    finally:
        with _blocks.lock:
            _blocks.open -= 1
            if not _blocks.open and _blocks.was_on:
                gc.enable()
