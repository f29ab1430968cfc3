"""Bytes or arrays to pixels. Every way in which an image can be wrong has an answer of one sentence.

Headers are read before pixels, so a decompression bomb is refused without being unpacked, and an npy file is parsed
without pickle. No torch. EXIF orientation is ignored: the pixels are certified as they are stored.
"""

import hashlib
import io
from collections.abc import Sequence
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from spacte_core.transparency import has_transparent_pixels

from .shards import Image

MAX_PIXELS = 1 << 24
"""Largest height times width that is decoded unless the caller says otherwise. Chosen: a photo of 16 megapixels."""

_FORMATS = ("PNG", "JPEG", "WEBP")
_NPY_MAGIC = b"\x93NUMPY"
_GRID_STEPS = 255  # of 8-bit pixels
_GRID_TOLERANCE = 1e-4  # in steps of 1/255: float32 of k/255 is off by less than 2e-5 steps


class BadImageError(ValueError):
    """The image cannot be used; the message is one sentence that says what is wrong and what is expected."""


def decode_image(
    data: bytes,
    *,
    input_shape: Sequence[int],
    resize: bool = False,
    convert_channels: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Image:
    """Decode a PNG, JPEG, WebP or npy file to the model's input shape.

    Args:
        data: the file's bytes.
        input_shape: (C, H, W) with C = 1 or 3 for picture files; npy takes any C.
        resize: scale to H x W (bilinear, antialiased) where the size differs; picture files only.
        convert_channels: turn grey into RGB or RGB into grey where the channels differ.
        max_pixels: the largest height times width that is decoded at all.

    Raises:
        BadImageError: for anything that does not give an image of that shape.
    """
    if not data:
        raise BadImageError("The image is empty: send the bytes of a PNG, JPEG, WebP or npy file.")
    if data.startswith(_NPY_MAGIC):
        return from_array(_read_npy(data, max_pixels), input_shape=input_shape)
    return _image(_read_picture(data, tuple(input_shape), resize, convert_channels, max_pixels))


def from_array(array: Any, *, input_shape: Sequence[int]) -> Image:
    """Pixels from an array or tensor [C, H, W]: uint8, or floating point in [0, 1].

    Floating-point values that are multiples of 1/255 become uint8, so that grid noise can be used; others are kept as
    float32, which float noise alone accepts. [H, W] is taken as [1, H, W].

    Raises:
        BadImageError: wrong shape or type, NaN, or values outside [0, 1].
    """
    values = np.asarray(array)
    expected = tuple(input_shape)
    if values.ndim == 2:
        values = values[np.newaxis]
    if values.shape != expected:
        raise wrong_shape(values.shape, expected)
    if values.dtype == np.uint8:
        return _image(values)
    if values.dtype.kind != "f":
        raise BadImageError(f"The image has type {values.dtype}, but pixels are uint8, or floating point in [0, 1].")
    if not np.isfinite(values).all():
        raise BadImageError("The image holds NaN or infinite values: every pixel must lie in [0, 1].")
    if values.min() < 0 or values.max() > 1:
        raise BadImageError(
            f"The image's values run from {values.min():g} to {values.max():g}, but floating-point pixels "
            "must lie in [0, 1]: divide by 255 or send uint8."
        )
    steps = values.astype(np.float64) * _GRID_STEPS
    nearest = np.rint(steps)
    if np.abs(steps - nearest).max() < _GRID_TOLERANCE:
        return _image(nearest.astype(np.uint8))
    return _image(values.astype(np.float32))


def wrong_shape(shape: Sequence[int], expected: Sequence[int]) -> BadImageError:
    """The error for an image of another shape than the model's."""
    return BadImageError(f"The image has shape {list(shape)}, but the model expects {list(expected)}.")


def to_array(image: Image) -> NDArray[Any]:
    """The pixels as a read-only array [C, H, W], uint8 or float32."""
    return np.frombuffer(image.data, dtype=image.dtype).reshape(image.shape)


def image_sha256(image: Image) -> str:
    """SHA-256 over type, shape and values of the decoded pixels, as it stands in a certificate."""
    name = f"{image.dtype} {'x'.join(map(str, image.shape))} ".encode()
    return hashlib.sha256(name + image.data).hexdigest()


def _image(values: NDArray[Any]) -> Image:
    channels, height, width = values.shape
    return Image(np.ascontiguousarray(values).tobytes(), (channels, height, width), values.dtype.name)


def read_npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, "np.dtype[Any]"]:
    """Shape, whether in Fortran order, and type of the array in an npy file; raises what numpy raises."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


def _read_npy(data: bytes, max_pixels: int) -> NDArray[Any]:
    stream = io.BytesIO(data)
    try:
        shape, _, dtype = read_npy_header(stream)
        if dtype.hasobject:
            raise BadImageError("The npy file holds Python objects: save a uint8 or floating-point array.")
        if len(shape) not in (2, 3) or np.prod(shape[-2:], dtype=object) > max_pixels:
            raise BadImageError(f"The npy file holds an array of shape {list(shape)}: send one image [C, H, W].")
        if len(data) - stream.tell() != np.prod(shape, dtype=object) * dtype.itemsize:
            raise BadImageError("The npy file is truncated or has bytes to spare: save the array again.")
        stream.seek(0)
        return np.lib.format.read_array(stream, allow_pickle=False)
    except BadImageError:
        raise
    except (ValueError, OSError, SyntaxError, TypeError, TokenError, RecursionError, MemoryError) as error:
        # numpy parses the header as Python source, which can fail in all of these ways.
        raise BadImageError("The npy file cannot be read: save one array with numpy.save.") from error


def _read_picture(
    data: bytes, expected: tuple[int, ...], resize: bool, convert_channels: bool, max_pixels: int
) -> NDArray[Any]:
    # Beyond its own limit Pillow only warns, and warning filters belong to the process, so threads must not set them.
    max_pixels = min(max_pixels, Pillow.MAX_IMAGE_PIXELS or max_pixels)
    try:
        picture = Pillow.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError:
        raise BadImageError("The bytes are no image that is read here: send a PNG, JPEG, WebP or npy file.") from None
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning):
        raise BadImageError(f"The image is too large to decode: send at most {max_pixels} pixels.") from None
    except Exception as error:  # a decoder fails in any way it likes on a damaged file
        raise BadImageError("The image's header cannot be read: save the image again.") from error
    if picture.width * picture.height > max_pixels:
        raise BadImageError(
            f"The image has {picture.width} x {picture.height} pixels, more than the {max_pixels} "
            "decoded here: scale it down."
        )
    try:
        picture.load()
        if has_transparent_pixels(picture, data):
            raise BadImageError("The image has transparent pixels: flatten it onto a background first.")
        plain = _plain(picture)
    except BadImageError:
        raise
    except Exception as error:  # a decoder fails in any way it likes on a damaged file
        raise BadImageError("The image is truncated or damaged: save or upload it again.") from error
    return _fit(plain, expected, resize, convert_channels)


def _fit(picture: Pillow.Image, expected: tuple[int, ...], resize: bool, convert_channels: bool) -> NDArray[Any]:
    channels, height, width = expected
    bands = len(picture.getbands())
    if bands != channels and convert_channels and channels in (1, 3):
        picture = picture.convert("L" if channels == 1 else "RGB")
        bands = channels
    if bands == channels and resize and picture.size != (width, height):
        picture = picture.resize((width, height), Pillow.Resampling.BILINEAR, reducing_gap=None)
    if bands != channels or picture.size != (width, height):
        raise BadImageError(
            f"The image has shape {[bands, picture.height, picture.width]}, but the model expects "
            f"{list(expected)}{'' if resize or bands != channels else ' (or pass resize)'}."
        )
    values = np.asarray(picture)
    return values[np.newaxis] if values.ndim == 2 else values.transpose(2, 0, 1)


def _plain(picture: Pillow.Image) -> Pillow.Image:
    """Grey or RGB, 8 bits: palettes are looked up, an alpha band is dropped."""
    if picture.mode in ("L", "RGB"):
        return picture
    if picture.mode == "1":
        return picture.convert("L")
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGBA")
    if picture.mode in ("LA", "RGBA"):
        return picture.convert("L" if picture.mode == "LA" else "RGB")
    if picture.mode in ("CMYK", "YCbCr"):
        return picture.convert("RGB")
    raise BadImageError(f"The image has mode {picture.mode}: send 8-bit grey or RGB.")
