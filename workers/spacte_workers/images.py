"""Bytes or arrays to pixels. Every way in which an image can be wrong has an answer of one sentence.

Headers are read before pixels, so a decompression bomb is refused without being unpacked, and an npy file is parsed
without pickle. What is done to pictures is `spacte_core.preprocessing`'s. No torch.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from spacte_client.types import ImageParams
from spacte_client.types import Preprocessing as Preprocessed
from spacte_core.pictures import MAX_PIXELS, PictureError
from spacte_core.preprocessing import Asked, Conversion, Preprocessing, preprocess

from .shards import Image

_NPY_MAGIC = b"\x93NUMPY"
_GRID_STEPS = 255  # of 8-bit pixels
_GRID_TOLERANCE = 1e-4  # in steps of 1/255: float32 of k/255 is off by less than 2e-5 steps


class BadImageError(ValueError):
    """The image cannot be used; the message is one sentence that says what is wrong and what is expected."""


def decode_image(
    data: bytes,
    *,
    input_shape: Sequence[int],
    stated: Preprocessing | None = None,
    asked: Asked | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Image:
    """Decode a PNG, JPEG, WebP, BMP, PPM or npy file to the model's input shape.

    Args:
        data: the file's bytes.
        input_shape: (C, H, W) with C = 1 or 3 for picture files; npy takes any C.
        stated: how pictures became the model's input when it was trained.
        asked: what the caller allows beyond that; picture files only.
        max_pixels: the largest height times width that is decoded at all.

    Raises:
        BadImageError: for anything that does not give an image of that shape.
    """
    if not data:
        raise BadImageError("The image is empty: send the bytes of a PNG, JPEG, WebP or npy file.")
    if data.startswith(_NPY_MAGIC):
        return from_array(_read_npy(data, max_pixels), input_shape=input_shape)
    channels, height, width = input_shape
    stated, asked = stated or Preprocessing(), asked or Asked()
    try:
        values, steps = preprocess(data, stated, asked, channels=channels, size=(height, width), max_pixels=max_pixels)
    except PictureError as error:
        raise BadImageError(str(error)) from error
    except MemoryError:
        raise
    except Exception as error:  # a conversion fails in any way it likes on a damaged file
        raise BadImageError("The image is damaged: save it anew.") from error
    return replace(_image(values), steps=steps)


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


def to_file(image: Image) -> bytes:
    """A file that decodes to these pixels: PNG, or npy where they are not grey or RGB of 8 bits."""
    buffer = io.BytesIO()
    pixels = to_array(image)
    if image.dtype == "uint8" and image.shape[0] in (1, 3):
        Pillow.fromarray(pixels[0] if image.shape[0] == 1 else pixels.transpose(1, 2, 0)).save(buffer, "PNG")
    else:
        np.save(buffer, pixels, allow_pickle=False)
    return buffer.getvalue()


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


def asked_of(params: ImageParams) -> Asked:
    """What a request allows to be done to its picture."""
    return Asked(params.resize, params.enlarge, tuple(params.convert))


def asked_by(done: Preprocessed | None, resize: bool) -> Asked:
    """What must be allowed so that a picture is brought to the input as a certificate says."""
    if done is None:
        return Asked(resize)
    named: dict[Conversion, object] = {
        "channels": done.channels,
        "orientation": done.orientation,
        "depth": done.bits,
        "transparency": done.background,
    }
    scaled = done.resize is not None or done.crop is not None or resize
    return Asked(scaled, enlarge=scaled, convert=tuple(name for name, value in named.items() if value is not None))
