"""Whether a picture shows through anywhere, however the file says so: an alpha band, a palette, or a tRNS colour."""

from PIL import Image

_PNG = b"\x89PNG\r\n\x1a\n"
_BIT_DEPTH_AT = 24
"""Where a PNG's IHDR chunk has the bits of a sample (PNG specification, 11.2.1)."""


def has_transparent_pixels(image: Image.Image, data: bytes) -> bool:
    """Whether any pixel is not fully opaque; a transparent colour that no pixel has does not count.

    Args:
        image: decoded, in the mode that its file has.
        data: the file's bytes.
    """
    transparent = image.info.get("transparency")
    if transparent is not None and image.mode in ("1", "L") and isinstance(transparent, int):
        # tRNS is in the file's own steps (PNG specification, 11.3.1.1), and Pillow has spread the pixels over 0..255.
        depth = data[_BIT_DEPTH_AT] if data.startswith(_PNG) else 8
        shown = image.convert("L")
        return shown.histogram()[min(transparent * 255 // ((1 << depth) - 1), 255)] > 0
    if transparent is not None or image.mode == "PA":
        image = image.convert("RGBA")
    return "A" in image.getbands() and image.getchannel("A").getextrema() != (255, 255)
