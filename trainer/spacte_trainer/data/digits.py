"""The embedded data set: scikit-learn's handwritten digits, 1,797 real 8x8 images from 13 writers.

They are the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, UCI Machine
Learning Repository, 1998), each pixel the number of ink dots, 0 to 16, in a 4x4 block of a 32x32 scan. Here a
value v becomes the 8-bit value round(255 v / 16), so that images survive a PNG unchanged and lie on the grid
on which grid noise is defined.

The split is fixed: the permutation of `numpy.random.RandomState(0)`, a stream that NumPy keeps frozen; its
first 1,400 images are for training and the other 397 for testing.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from spacte_trainer.data.base import DataConfig, Split
from spacte_trainer.data.memory import MemoryData

TRAIN_SIZE = 1_400
CLASS_NAMES = tuple("0123456789")


def load_digits(split: Split) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images [N, 1, 8, 8], uint8, and labels [N], int64: N is 1,400 for "train" and 397 for "test"."""
    from sklearn.datasets import load_digits as read

    ink_N64, labels_N = read(return_X_y=True)
    images_NCHW = np.rint(ink_N64 * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    order = np.random.RandomState(0).permutation(len(images_NCHW))
    chosen = order[:TRAIN_SIZE] if split == "train" else order[TRAIN_SIZE:]
    return images_NCHW[chosen], np.asarray(labels_N)[chosen].astype(np.int64)


def load(config: DataConfig, split: Split) -> MemoryData:
    """One split of the digits."""
    images_NCHW, labels_N = load_digits(split)
    return MemoryData(
        torch.from_numpy(images_NCHW), torch.from_numpy(labels_N), CLASS_NAMES, config.crop, config.flip
    )
