"""Random pictures as files, and what is said of an image set that is refused, for the tests of such sets."""

import numpy as np
import pytest
from PIL import Image
from tests.odd_pictures import saved

from spacte_core.data import DataConfig, DataError, load_data


def random_image(seed: int, height: int = 4, width: int = 4, channels: int = 3) -> np.ndarray:
    """Pixels [height, width, channels], or [height, width] of one channel."""
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    """The picture as a file."""
    return saved(Image.fromarray(pixels))


def refusal(source: str, split: str = "train", **options: object) -> str:
    """The sentence with which a split of the source is refused."""
    with pytest.raises(DataError) as caught:
        load_data(DataConfig(source=source, **options), split)  # type: ignore[arg-type]
    return str(caught.value)
