"""The embedded data set: scikit-learn's handwritten digits, 1,797 real 8x8 images from 13 writers.

They are the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, UCI Machine
Learning Repository, 1998), each pixel the number of ink dots, 0 to 16, in a 4x4 block of a 32x32 scan. Here a
value v becomes the 8-bit value round(255 v / 16), so that images survive a PNG unchanged and lie on the grid
on which grid noise is defined.

The split is fixed: the permutation of `numpy.random.RandomState(0)`, a stream that NumPy keeps frozen; its
first 1,400 images are for training and the other 397 for testing.
"""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from .base import DataConfig, Split
from .memory import MemoryData

TRAIN_SIZE = 1_400
CLASS_NAMES = tuple("0123456789")


def load_digits(split: Split) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images [N, 1, 8, 8], uint8, and labels [N], int64: N is 1,400 for "train" and 397 for "test"."""
    table_N65 = _table()
    images_NCHW = np.rint(table_N65[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    order = np.random.RandomState(0).permutation(len(images_NCHW))
    chosen = order[:TRAIN_SIZE] if split == "train" else order[TRAIN_SIZE:]
    return images_NCHW[chosen], table_N65[chosen, 64].astype(np.int64)


def _table() -> NDArray[np.float64]:
    """Ink of 64 pixels and the label, a row an image.

    The file is read without importing scikit-learn, which takes about a second and which every process that serves
    these digits would wait for.
    """
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("The digits come with scikit-learn: pip install scikit-learn.")
    with gzip.open(Path(package.submodule_search_locations[0]) / "datasets/data/digits.csv.gz", "rt") as rows:
        return np.loadtxt(rows, delimiter=",")


def load(config: DataConfig, split: Split) -> MemoryData:
    """One split of the digits."""
    images_NCHW, labels_N = load_digits(split)
    return MemoryData(torch.from_numpy(images_NCHW), torch.from_numpy(labels_N), CLASS_NAMES, config.crop, config.flip)
