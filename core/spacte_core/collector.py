"""Python's garbage collector of cycles, put off while much is made that stays."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collecting_later() -> Iterator[None]:
    """Look for no cycles in this process during the block; blocks of several threads may overlap.

    Modules and networks stay, so that to look through them again and again is in vain: a quarter of the time in which
    torch is imported and a program read.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
