"""Picture files to pixels as they are stored, and what must be known of them before pixels are taken for an input.

Headers are read before pixels, so that a decompression bomb is refused without being unpacked. No torch.
"""

import io
from dataclasses import dataclass
from typing import Any

from PIL import Image, UnidentifiedImageError

from .transparency import has_transparent_pixels

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM")
"""What is read. Pillow's other decoders stay unreachable: those of TIFF and GIF have had most of its faults."""

MAX_PIXELS = 1 << 24
"""Largest height times width that is decoded unless the caller says otherwise. Chosen: a photo of 16 megapixels."""

ORIENTATION = 0x0112
"""The EXIF tag that says how a camera was held (EXIF 2.32, 4.6.4); 1 is upright, 2 to 8 are turned or mirrored."""

_PNG = b"\x89PNG\r\n\x1a\n"
_BIT_DEPTH_AT, _COLOUR_TYPE_AT = 24, 25
"""Where a PNG's IHDR chunk has the bits of a sample, and what samples there are (PNG specification, 11.2.1)."""
_GREY_WITH_ALPHA = 4


class PictureError(ValueError):
    """A picture that cannot be used; the message is one sentence that names the remedy."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture.

    Attributes:
        image: the pixels in the mode that the file has.
        bits: of a sample in the file, at least 8: Pillow leaves out the low bits of most 16-bit pictures.
        orientation: of the EXIF tag, 1 to 8; the pixels are not turned.
        transparent: whether any pixel shows through.
    """

    image: Image.Image
    bits: int
    orientation: int
    transparent: bool


def read_picture(data: bytes, max_pixels: int | None = None) -> Picture:
    """Decode a PNG, JPEG, WebP, BMP or PPM file.

    Raises:
        PictureError: it is none of these, damaged, too large, or has several frames.
    """
    # Beyond its own limit Pillow only warns, and warning filters belong to the process, so threads must not set them.
    limits = [limit for limit in (max_pixels, Image.MAX_IMAGE_PIXELS) if limit]
    most = min(limits, default=0)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise PictureError("The bytes are no image that is read here: send a PNG, JPEG, WebP or npy file.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PictureError(f"The image is too large to decode: send at most {most} pixels.") from None
    except Exception as error:  # a decoder fails in any way it likes on a damaged file
        raise PictureError("The image's header cannot be read: save the image again.") from error
    if most and image.width * image.height > most:
        raise PictureError(
            f"The image has {image.width} x {image.height} pixels, more than the {most} decoded here: scale it down."
        )
    try:
        # A JPEG may carry previews and depth maps as further frames; its first is the photo.
        frames = 1 if image.format in ("JPEG", "MPO") else getattr(image, "n_frames", 1)
        bits = _bits(image, data)
        image.load()
        orientation = image.getexif().get(ORIENTATION, 1)
        transparent = has_transparent_pixels(image, data)
        if image.mode == "RGBA" and data.startswith(_PNG) and data[_COLOUR_TYPE_AT] == _GREY_WITH_ALPHA:
            image = image.convert("LA")  # Pillow has no such mode of 16 bits
    except Exception as error:  # a decoder fails in any way it likes on a damaged file
        raise PictureError("The image is truncated or damaged: save or upload it again.") from error
    if frames != 1:
        raise PictureError(f"The image has {frames} frames: send the one that is meant.")
    upright = not isinstance(orientation, int) or not 1 <= orientation <= 8
    return Picture(image, bits, 1 if upright else orientation, transparent)


def _bits(image: Any, data: bytes) -> int:
    """Bits of a sample, before the pixels are loaded."""
    if data.startswith(_PNG):
        return max(8, data[_BIT_DEPTH_AT])
    if image.format == "PPM":
        arguments = image.tile[0].args
        arguments = arguments if isinstance(arguments, tuple) else (arguments,)
        largest = [argument for argument in arguments if isinstance(argument, int)]
        return 16 if image.mode == "I" or max(largest, default=0) > 255 else 8
    return 8
