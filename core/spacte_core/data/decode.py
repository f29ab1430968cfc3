"""Turns image files into one uint8 array, counting what cannot be read and refusing what does not match."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from spacte_core.errors import DataError
from spacte_core.pictures import PictureError
from spacte_core.preprocessing import Asked, Preprocessing, preprocess

from .base import DataConfig, check_classes, check_unreadable
from .memory import MemoryData


def decode(data: bytes, config: DataConfig) -> NDArray[np.uint8]:
    """An image as uint8 [C, H, W], changed only as `config` says.

    Raises:
        PictureError: it cannot be read, or would have to be changed otherwise.
    """
    size = None if config.image_size is None else (config.image_size, config.image_size)
    asked = Asked(resize=True, enlarge=config.enlarge)
    stated = config.preprocessing or Preprocessing()
    return preprocess(data, stated, asked, channels=config.channels, size=size)[0]


class ImageCollector:
    """Collects decoded images of one set; `finish` gives the set or raises DataError."""

    def __init__(self, config: DataConfig, where: str) -> None:
        self.config, self.where = config, where
        self.images: list[NDArray[np.uint8]] = []
        self.labels: list[int] = []
        self.skipped: list[str] = []
        self.first = self.why = ""

    def add(self, name: str, data: bytes, label: int) -> None:
        """Decode one image; a size or channel count unlike the first image's raises DataError."""
        try:
            pixels = decode(data, self.config)
        except PictureError as error:
            self.skipped.append(name)
            self.why = self.why or str(error)
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
        check_unreadable(self.skipped, seen, self.where, self.why)
        labels_N = torch.tensor(self.labels)
        check_classes(labels_N, class_names, self.where)
        images_NCHW = torch.from_numpy(np.stack(self.images))
        return MemoryData(images_NCHW, labels_N, class_names, self.config.crop, self.config.flip, tuple(self.skipped))
