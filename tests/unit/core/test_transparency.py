"""Promise: a picture that shows through is refused alike by requests and training, however its file says so."""

import io
import struct
import zlib

import pytest
from PIL import Image

from spacte_core.data import DataConfig
from spacte_core.data.decode import decode
from spacte_core.pictures import PictureError
from spacte_core.preprocessing import Asked
from spacte_core.transparency import has_transparent_pixels
from spacte_workers.images import BadImageError, decode_image


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def grey_png(depth: int, trns: int) -> bytes:
    """An 8 x 8 grey PNG of `depth` bits whose pixels are 0 and 1 in turn, and tRNS names a level."""
    bits = "".join(f"{i % 2:0{depth}b}" for i in range(8))
    row = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    pixels = zlib.compress(b"".join(b"\0" + row for _ in range(8)))
    header = struct.pack(">IIBBBBB", 8, 8, depth, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"tRNS", struct.pack(">H", trns)) + chunk(b"IDAT", pixels)
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def saved(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def two_colours(mode: str) -> Image.Image:
    image = Image.new(mode, (8, 8), (9, 9, 9) if mode == "RGB" else 0)
    if mode == "P":
        image.putpalette([9, 9, 9, 1, 2, 3])
    image.putpixel((0, 0), (1, 2, 3) if mode == "RGB" else 1)
    return image


def alpha(mode: str, value: int) -> Image.Image:
    image = Image.new(mode, (8, 8), (9,) * (len(mode) - 1) + (255,))
    image.putpixel((0, 0), (9,) * (len(mode) - 1) + (value,))
    return image


FILES = [
    (saved(alpha("RGBA", 254)), True),
    (saved(alpha("RGBA", 255)), False),
    (saved(alpha("LA", 0)), True),
    (saved(two_colours("RGB"), transparency=(1, 2, 3)), True),
    (saved(two_colours("RGB"), transparency=(1, 2, 4)), False),
    (saved(two_colours("L"), transparency=1), True),
    (saved(two_colours("L"), transparency=2), False),
    (grey_png(8, 0x0101), True),  # of the 16 bits of a tRNS level those of the pixels count
    (grey_png(8, 0x0102), False),
    (grey_png(8, 0x0100 | 255), False),
    (saved(two_colours("P"), transparency=1), True),
    (saved(two_colours("P"), transparency=bytes([255, 128])), True),
    *((grey_png(depth, 1), True) for depth in (1, 2, 4, 8)),
    *((grey_png(depth, (1 << depth) - 1), depth == 1) for depth in (1, 2, 4, 8)),
]


@pytest.mark.parametrize(("data", "transparent"), FILES)
def test_requests_and_training_refuse_the_same_pictures(data: bytes, transparent: bool) -> None:
    image = Image.open(io.BytesIO(data))
    image.load()
    assert has_transparent_pixels(image, data) == transparent
    for read, error in ((in_training, PictureError), (as_request, BadImageError)):
        if transparent:
            with pytest.raises(error, match="transparent pixels: flatten it"):
                read(data)
        else:
            read(data)


def in_training(data: bytes) -> object:
    return decode(data, DataConfig(source="folder:x", channels=3))


def as_request(data: bytes) -> object:
    return decode_image(data, input_shape=(3, 8, 8), asked=Asked(convert=("channels",)))


@pytest.mark.parametrize("body", [chunk(b"iCCP", b""), chunk(b"tRNS", bytes(768))])
def test_whatever_a_decoder_raises_is_one_sentence(body: bytes) -> None:
    palette = b"\0" * 768
    pixels = zlib.compress(b"".join(b"\0" + bytes(range(8)) for _ in range(8)))
    kind = 3 if b"tRNS" in body else 0
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, kind, 0, 0, 0))
    early = chunk(b"PLTE", palette) + body if kind == 3 else b""
    late = b"" if kind == 3 else body
    data = b"\x89PNG\r\n\x1a\n" + header + early + chunk(b"IDAT", pixels) + late + chunk(b"IEND", b"")
    for read, error in ((in_training, PictureError), (as_request, BadImageError)):
        with pytest.raises(error):
            read(data)
