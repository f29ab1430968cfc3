"""Picture files of every kind that a user may send, made by code: modes, bit depths, turns, interlace, damage."""

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

SIDE = 8
"""Height and width of most of them: what the networks of the tests take."""

ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row, first column and steps of the passes of an interlaced PNG (PNG specification, 8.2)."""


def colour(height: int = SIDE, width: int = SIDE) -> Image.Image:
    """Random RGB pixels, the same in every run."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The picture as a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def raw_png(
    samples_HWC: np.ndarray, depth: int, colour_type: int, *, interlaced: bool = False, **chunks: bytes
) -> bytes:
    """A PNG written by hand, for what Pillow does not write; `chunks` come before the pixels."""
    height, width, _ = samples_HWC.shape
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    rows = b""
    for top, left, down, across in passes:
        part = samples_HWC[top::down, left::across]
        for row in part if part.size else ():
            bits = "".join(f"{int(value):0{depth}b}" for value in row.reshape(-1))
            bits += "0" * (-len(bits) % 8)
            rows += b"\0" + bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, int(interlaced))
    parts = [(b"IHDR", header), *((name.encode(), body) for name, body in chunks.items())]
    parts += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )


def turned(orientation: int, kind: str = "JPEG") -> bytes:
    """A picture with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(colour(), kind, exif=exif)


def _samples(depth: int, channels: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 1 << depth, (SIDE, SIDE, channels))


def _alpha(mode: str, lowest: int) -> Image.Image:
    image = colour().convert(mode[:-1]).convert(mode)
    band = Image.new("L", image.size, 255)
    band.putpixel((3, 4), lowest)
    image.putalpha(band)
    return image


def _modes() -> dict[str, bytes]:
    grey = colour().convert("L")
    palette = colour().quantize(16)
    first = tuple(np.asarray(colour())[0, 0].tolist())
    return {
        "RGB": saved(colour()),
        "L": saved(grey),
        "1": saved(colour().convert("1")),
        "P": saved(palette),
        "P transparent": saved(palette, transparency=palette.getpixel((0, 0))),
        "P opaque alpha": saved(palette, transparency=bytes([255] * 16)),
        "RGBA opaque": saved(_alpha("RGBA", 255)),
        "RGBA transparent": saved(_alpha("RGBA", 9)),
        "LA opaque": saved(_alpha("LA", 255)),
        "LA transparent": saved(_alpha("LA", 0)),
        "L tRNS": saved(grey, transparency=grey.getpixel((0, 0))),
        "RGB tRNS": saved(colour(), transparency=first),
        "RGB tRNS of no pixel": saved(Image.new("RGB", (SIDE, SIDE), (1, 2, 3)), transparency=(3, 2, 1)),
        "I;16": saved(Image.fromarray(_samples(16, 1)[:, :, 0].astype(np.uint16))),
        "CMYK": saved(colour().convert("CMYK"), "JPEG"),
        "YCbCr": saved(colour(), "JPEG"),
        "L JPEG": saved(grey, "JPEG"),
        "RGB WebP": saved(colour(), "WEBP", lossless=True),
        "RGBA WebP": saved(_alpha("RGBA", 9), "WEBP", lossless=True),
        "RGB BMP": saved(colour(), "BMP"),
        "P BMP": saved(palette, "BMP"),
        "1 BMP": saved(colour().convert("1"), "BMP"),
        "RGB PPM": saved(colour(), "PPM"),
        "L PPM": saved(grey, "PPM"),
        "1 PPM": saved(colour().convert("1"), "PPM"),
        "I PPM": b"P5 8 8 65535\n" + _samples(16, 1).astype(">u2").tobytes(),
        "RGB 16 PPM": b"P6 8 8 65535\n" + _samples(16, 3).astype(">u2").tobytes(),
        "RGB 4 PPM": b"P6 8 8 15\n" + _samples(4, 3).astype(np.uint8).tobytes(),
        "F": saved(grey.convert("F"), "PPM"),
        "LAB": saved(Image.merge("LAB", [grey] * 3), "TIFF"),
        "I": saved(grey.convert("I"), "TIFF"),
        "RGB TIFF": saved(colour(), "TIFF"),
        "P GIF": saved(palette, "GIF"),
    }


def _pngs() -> dict[str, bytes]:
    kinds: Sequence[tuple[str, int, int, int]] = (
        ("grey", 1, 0, 1), ("grey", 2, 0, 1), ("grey", 4, 0, 1), ("grey", 16, 0, 1), ("RGB", 16, 2, 3),
        ("grey and alpha", 16, 4, 2), ("RGB and alpha", 16, 6, 4),
    )  # fmt: skip
    made = {f"{name} {depth} bits": raw_png(_samples(depth, count), depth, kind) for name, depth, kind, count in kinds}
    made["RGB interlaced"] = raw_png(_samples(8, 3), 8, 2, interlaced=True)
    made["grey 2 bits interlaced"] = raw_png(_samples(2, 1), 2, 0, interlaced=True)
    made["grey 2 bits tRNS"] = raw_png(_samples(2, 1), 2, 0, tRNS=struct.pack(">H", 1))
    deep = _samples(16, 3)
    made["RGB 16 bits tRNS"] = raw_png(deep, 16, 2, tRNS=struct.pack(">3H", *deep[0, 0].tolist()))
    deep = _samples(16, 1)
    made["grey 16 bits tRNS"] = raw_png(deep, 16, 0, tRNS=struct.pack(">H", int(deep[0, 0, 0])))
    return made


def _others() -> dict[str, bytes]:
    two = {"save_all": True, "append_images": [colour().rotate(90)]}
    return {
        **{f"turned {orientation}": turned(orientation) for orientation in range(2, 9)},
        "turned 0": turned(0),
        "turned 6 PNG": turned(6, "PNG"),
        "turned 8 WebP": turned(8, "WEBP"),
        "wide": saved(colour(16, 32)),
        "tall": saved(colour(31, 17)),
        "small": saved(colour(5, 4)),
        "long": saved(colour(8, 9)),
        "animated WebP": saved(colour(), "WEBP", lossless=True, **two),
        "animated PNG": saved(colour(), "PNG", **two),
        "half": saved(colour())[:90],
        "text": b"no picture",
    }


PICTURES: dict[str, bytes] = {**_modes(), **_pngs(), **_others()}
"""File content by what is odd about it."""
