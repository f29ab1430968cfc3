"""Promise: nothing is done to a picture that nobody named, and what is done stands in its steps."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from spacte_core.pictures import PictureError
from spacte_core.preprocessing import Asked, Preprocessing, preprocess


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def grey_with_alpha(alpha: int) -> bytes:
    """An 8 x 8 PNG of 16 bits: one grey, and one alpha."""
    rows = (b"\0" + struct.pack(">HH", 0x4321, alpha) * 8) * 8
    header = struct.pack(">IIBBBBB", 8, 8, 16, 4, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def prepared(data: bytes, *names: str, channels: int = 3):
    return preprocess(data, Preprocessing(), Asked(convert=names), channels=channels, size=(8, 8))


def test_grey_with_alpha_of_16_bits_is_grey() -> None:
    pixels, steps = prepared(grey_with_alpha(0xFFFF), "depth", channels=1)
    assert np.array_equal(pixels, np.full((1, 8, 8), 0x43))
    assert (steps.bits, steps.channels, steps.background) == (16, None, None)
    with pytest.raises(PictureError, match=r"is grey of shape .*`channels`"):
        prepared(grey_with_alpha(0xFFFF), "depth")
    pixels, steps = prepared(grey_with_alpha(0), "depth", "transparency", "channels")
    assert np.array_equal(pixels, np.full((3, 8, 8), 255))
    assert (steps.bits, steps.channels, steps.background) == (16, "grey_to_rgb", "white")


@pytest.mark.parametrize("size", [(2, 4_000_000), (4_000_000, 2)])
def test_a_strip_is_not_enlarged_beyond_what_is_decoded(size: tuple[int, int]) -> None:
    file = io.BytesIO()
    Image.new("L", size).save(file, "PNG")
    asked = Asked(resize=True, enlarge=True)
    with pytest.raises(PictureError, match="before its centre is taken: crop it"):
        preprocess(file.getvalue(), Preprocessing(), asked, channels=1, size=(8, 8))
