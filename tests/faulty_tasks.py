"""Tasks of a decoding process that fail in every way in which a decoder written in C may, by what the file says."""

import ctypes
import os
import socket
import time
from pathlib import Path
from typing import Any

from spacte_workers.batch.inputs import InputSpec
from spacte_workers.decoding import tasks
from spacte_workers.shards import Image


def decode_image(data: bytes, **options: Any) -> Image:
    """As the real one, except for files that name a fault."""
    match data:
        case b"abort":
            os.abort()
        case b"exit":
            os._exit(3)
        case b"jump":
            ctypes.string_at(1)
        case b"sleep":
            time.sleep(600)
        case b"loop":
            while True:
                pass
        case b"allocate":
            held = [bytes(range(256)) * 4096 for _ in range(4096)]
            raise AssertionError(f"{len(held)} MiB were given")
        case b"raise":
            raise IndexError("image index out of range")
        case b"connect":
            socket.create_connection(("127.0.0.1", 9))
        case b"run":
            os.execv("/bin/true", ["true"])
        case b"lie":
            return Image(b"\0" * 7, (9, 9, 9), "uint8")
        case b"environment":
            Path(os.environ["TMPDIR"], "seen").write_text("\n".join(os.environ))
    return REAL(data, **options)


REAL = tasks.decode_image
tasks.decode_image = decode_image


class Tasks(tasks.Tasks):
    """The real ones, which die at rows 2 and 3 of an input whose name says so, and at once where it is to be opened."""

    def __init__(self) -> None:
        super().__init__()
        self._name = ""

    def open(self, spec: InputSpec, *options: Any) -> tasks.Result:
        """Open an input."""
        self._name = Path(spec.location).stem
        if self._name == "opening":
            os.abort()
        return super().open(spec, *options)

    def read(self, index: int) -> tasks.Result:
        """One row."""
        if self._name == "rows" and index in (2, 3):
            os.abort()
        return super().read(index)
