"""What callers pass as an image, as the bytes or the reference to send."""

import io
import os
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol, cast

from ._exceptions import InvalidArgumentError
from ._npy import encode_npy
from ._uploads import open_upload
from .types import File, FileImage


class Picture(Protocol):
    """A picture that writes itself to a file, as those of Pillow do."""

    def save(self, fp: Any, format: str | None = None) -> None: ...  # noqa: A002 - Pillow's name


class ArrayLike(Protocol):
    """A numpy array, a torch tensor, or whatever else can become an array."""

    __array__: Callable[..., Any]


ImageLike = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Picture | ArrayLike
"""A path, the bytes of an image file, an open binary file, a Pillow image, or an array [channels, height,
width] of uint8, or of floats in [0, 1]."""

Image = ImageLike | File | FileImage
"""An image, or one that was uploaded before."""


def encode_image(image: Image) -> bytes | FileImage:
    """The bytes of an image file (PNG for pictures, npy for arrays), or a reference to an uploaded one.

    An `InvalidArgumentError` says where it is not an image, cannot be read or is empty.
    """
    if isinstance(image, FileImage):
        return image
    if isinstance(image, File):
        return FileImage(file_id=image.id)
    data = _read(image)
    if not data:
        raise InvalidArgumentError("The image is empty; pass a file that holds one.")
    return data


def _read(image: Any) -> bytes:
    if isinstance(image, str | os.PathLike):
        with open_upload(cast("str", image)) as (file, _):
            return cast("BinaryIO", file).read()
    if isinstance(image, bytes | bytearray):
        return bytes(image)
    if isinstance(image, memoryview):
        return image.tobytes() if image.ndim == 1 else encode_npy(image)
    if callable(getattr(image, "save", None)):
        return _save(image)
    if callable(getattr(image, "read", None)):
        data = image.read()
        if not isinstance(data, bytes):
            raise InvalidArgumentError("The image's file is open as text; open it with mode 'rb'.")
        return data
    if hasattr(image, "__array__"):
        return encode_npy(image)
    raise InvalidArgumentError(
        f"A {type(image).__name__} is not an image; pass a path, bytes, a binary file, a Pillow image or an array."
    )


def _save(picture: Any) -> bytes:
    file = io.BytesIO()
    try:
        # With the turn that the camera asked for, which Pillow leaves out: the service is to see it as in the file.
        turn = {"exif": picture.getexif()} if callable(getattr(picture, "getexif", None)) else {}
        picture.save(file, format="PNG", **turn)
    except Exception as error:  # a damaged file that Pillow has yet to read fails in any way it likes
        raise InvalidArgumentError(
            f"The picture cannot be written as PNG ({error}); convert it first, e.g. with .convert('RGB')."
        ) from error
    return file.getvalue()
