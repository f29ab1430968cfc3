"""CIFAR-10, CIFAR-100, MNIST and SVHN as torchvision keeps them, downloaded where there is a network."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spacte_core.errors import DataError

from .base import DataConfig, Split
from .memory import MemoryData

DIGIT_NAMES = tuple("0123456789")


def load(config: DataConfig, split: Split) -> MemoryData:
    """One split of the set that `config.source` names, as uint8 images and int64 labels."""
    images_NCHW, labels_N, class_names = READERS[config.kind](config, split == "train")
    return MemoryData(images_NCHW, labels_N, class_names, config.crop, config.flip)


def _fetch(constructor: Callable[..., Any], config: DataConfig, **options: object) -> Any:
    """The set from `config.root`, downloaded there first if need be."""
    # torchvision says "not found or corrupted" and any failure of the download by these two types
    # (URLError is an OSError).
    try:
        return constructor(str(config.root), download=True, **options)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{config.source} is not in {config.root} and could not be downloaded ({error}): "
            "put it there, or name another source, such as --data parquet:PATH or folder:PATH."
        ) from error


def _cifar(config: DataConfig, train: bool) -> tuple[Tensor, Tensor, list[str]]:
    from torchvision.datasets import CIFAR10, CIFAR100

    found = _fetch({"cifar10": CIFAR10, "cifar100": CIFAR100}[config.kind], config, train=train)
    images_NCHW = torch.from_numpy(np.ascontiguousarray(found.data.transpose(0, 3, 1, 2)))
    return images_NCHW, torch.tensor(found.targets), found.classes


def _mnist(config: DataConfig, train: bool) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    from torchvision.datasets import MNIST

    found = _fetch(MNIST, config, train=train)
    return found.data.unsqueeze(1), found.targets, DIGIT_NAMES


def _svhn(config: DataConfig, train: bool) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    from torchvision.datasets import SVHN

    found = _fetch(SVHN, config, split="train" if train else "test")
    return torch.from_numpy(found.data), torch.from_numpy(found.labels).long(), DIGIT_NAMES


READERS = {"cifar10": _cifar, "cifar100": _cifar, "mnist": _mnist, "svhn": _svhn}
