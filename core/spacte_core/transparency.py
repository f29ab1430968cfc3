"""Whether a picture shows through anywhere, however the file says so: an alpha band, a palette, or a tRNS colour."""

import numpy as np
from PIL import Image

_PNG = b"\x89PNG\r\n\x1a\n"
_BIT_DEPTH_AT = 24
"""Where a PNG's IHDR chunk has the bits of a sample (PNG specification, 11.2.1)."""


def has_transparent_pixels(image: Image.Image, data: bytes) -> bool:
    """Whether any pixel is not fully opaque; a transparent colour that no pixel has does not count.

    A transparent colour in `image.info` is brought to the steps of the pixels, so that the picture can be flattened.

    Args:
        image: decoded, in the mode that its file has.
        data: the file's bytes.
    """
    transparent = image.info.get("transparency")
    if transparent is not None:
        transparent = image.info["transparency"] = _in_steps_of_pixels(image, transparent, data)
    if image.mode.startswith("I"):
        return transparent is not None and bool((np.asarray(image) == transparent).any())
    if transparent is not None or image.mode == "PA":
        image = image.convert("RGBA")
    return "A" in image.getbands() and image.getchannel("A").getextrema() != (255, 255)


def _in_steps_of_pixels(
    image: Image.Image, transparent: int | tuple[int, ...] | bytes, data: bytes
) -> int | tuple[int, ...] | bytes:
    """A tRNS colour as Pillow has spread the pixels; in the file it has other steps (PNG specification, 11.3.1.1)."""
    depth = data[_BIT_DEPTH_AT] if data.startswith(_PNG) else 8
    most = (1 << depth) - 1  # a file states 16 bits, of which those of its pixels count
    if isinstance(transparent, tuple):  # of 16 bits Pillow keeps the upper 8
        return tuple((level & most) >> (8 if depth == 16 else 0) for level in transparent)
    if isinstance(transparent, int) and image.mode in ("1", "L"):
        return (transparent & most) * 255 // most
    return transparent
