"""Turns image files into one uint8 array, counting what cannot be read and refusing what does not match."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from spacte_core.transparency import has_transparent_pixels

from .base import DataConfig, DataError, check_classes, check_unreadable
from .memory import MemoryData

GREY_MODES = {"1", "L", "LA"}
COLOUR_MODES = {"RGB", "RGBA", "RGBX", "P", "CMYK", "YCbCr"}


class UnreadableImageError(Exception):
    """One image that Pillow cannot turn into 8-bit grey or colour."""


def open_image(data: bytes) -> Image.Image:
    """The decoded image in mode L (grey) or RGB; raises UnreadableImageError."""
    try:
        image = Image.open(io.BytesIO(data))
        if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
            raise UnreadableImageError(f"{image.width} x {image.height} pixels are more than are decoded")
        image.load()
        if has_transparent_pixels(image, data):
            raise UnreadableImageError("it has transparent pixels: flatten it onto a background first")
        return _plain(image)
    except UnreadableImageError:
        raise
    except Exception as error:  # a decoder fails in any way it likes on a damaged file
        raise UnreadableImageError(str(error)) from error


def _plain(image: Image.Image) -> Image.Image:
    if image.mode in GREY_MODES:
        return image.convert("L")
    if image.mode in COLOUR_MODES:  # a palette may have opacities, which a direct conversion warns of
        return (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")
    raise UnreadableImageError(f"pixel format {image.mode} is not 8-bit grey or colour")


def decode(data: bytes, *, channels: int | None, image_size: int | None) -> NDArray[np.uint8]:
    """An image as uint8 [C, H, W], converted and resized only where asked; raises UnreadableImageError."""
    image = open_image(data)
    if channels is not None:
        image = image.convert("L" if channels == 1 else "RGB")
    if image_size is not None:
        image = resize_and_crop(image, image_size)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    """The centre `size` x `size` pixels after the shorter edge has been resized to `size`."""
    scale = size / min(image.size)
    width, height = (max(size, round(edge * scale)) for edge in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


class ImageCollector:
    """Collects decoded images of one set; `finish` gives the set or raises DataError."""

    def __init__(self, config: DataConfig, where: str) -> None:
        self.config, self.where = config, where
        self.images: list[NDArray[np.uint8]] = []
        self.labels: list[int] = []
        self.skipped: list[str] = []
        self.first = ""

    def add(self, name: str, data: bytes, label: int) -> None:
        """Decode one image; a size or channel count unlike the first image's raises DataError."""
        try:
            pixels = decode(data, channels=self.config.channels, image_size=self.config.image_size)
        except UnreadableImageError:
            self.skipped.append(name)
            return
        if not self.images:
            self.first = name
        elif pixels.shape != self.images[0].shape:
            raise DataError(self._mismatch(name, pixels.shape, self.images[0].shape))
        self.images.append(pixels)
        self.labels.append(label)

    def _mismatch(self, name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> str:
        remedy = (
            f"--set data.image_size={min(expected[1:])} resizes and crops all of them"
            if shape[1:] != expected[1:]
            else f"--set data.channels={expected[0]} converts all of them"
        )
        this, first = ("x".join(map(str, each)) for each in (shape, expected))
        return f"Image {name} is {this} (channels, height, width) but {self.first} is {first}: {remedy}."

    def finish(self, class_names: Sequence[str]) -> MemoryData:
        """The images gathered, once they were found complete."""
        seen = len(self.images) + len(self.skipped)
        if not seen:
            raise DataError(f"{self.where} holds no image: check the path and the layout.")
        check_unreadable(self.skipped, seen, self.where)
        labels_N = torch.tensor(self.labels)
        check_classes(labels_N, class_names, self.where)
        images_NCHW = torch.from_numpy(np.stack(self.images))
        return MemoryData(images_NCHW, labels_N, class_names, self.config.crop, self.config.flip, tuple(self.skipped))
