"""Arrays to the bytes of an npy file, without numpy: through the buffer protocol.

Format (NEP 1, version 1.0): magic, length of the header in two bytes, and a header that is a Python dict literal,
padded so that the data begins at a multiple of 64 bytes.
"""

import struct
import sys
from typing import Any

from ._exceptions import InvalidArgumentError

MAGIC = b"\x93NUMPY\x01\x00"
ALIGNMENT = 64  # NEP 1

DTYPES = {"B": "u1", "e": "f2", "f": "f4", "d": "f8"}
"""Element types that are images, by their code in the buffer protocol: 8-bit, and floats in [0, 1]."""


def encode_npy(array: Any) -> bytes:
    """The npy file of an array of any shape, in C order: of uint8, or of floats in [0, 1].

    Args:
        array: anything with `__array__` or the buffer protocol, as a numpy array or a torch tensor on the CPU.
    """
    view = _view(array)
    code = view.format.lstrip("@=<>!")
    if code not in DTYPES:
        raise InvalidArgumentError(
            f"An image array holds uint8, or floats in [0, 1], and this one holds elements of type {view.format!r}; "
            "convert it, e.g. with array.astype('uint8')."
        )
    big = view.format[0] in ">!" or (sys.byteorder == "big" and view.format[0] != "<")
    order = "|" if code == "B" else ">" if big else "<"
    header = f"{{'descr': '{order}{DTYPES[code]}', 'fortran_order': False, 'shape': {view.shape!r}, }}"
    header += " " * (-(len(MAGIC) + 2 + len(header) + 1) % ALIGNMENT) + "\n"
    return MAGIC + struct.pack("<H", len(header)) + header.encode("latin-1") + view.tobytes()


def _view(array: Any) -> memoryview:
    try:
        return memoryview(array.__array__() if hasattr(array, "__array__") else array)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise InvalidArgumentError(
            f"The image, a {type(array).__name__}, cannot be read as an array; pass array.detach().cpu() "
            f"or a uint8 numpy array ({error})."
        ) from error
