"""What several measurements do alike: take test images, and give out a page."""

from pathlib import Path

import torch

from spacte_core.data import Batch, DataConfig, load_data


def spread_images(data: str, most: int) -> Batch:
    """At most so many images of a test set, equally far apart in it, pixels in [0, 1].

    Args:
        data: the data set, as `spacte train --data` takes it.
        most: how many.
    """
    test = load_data(DataConfig(source=data), "test")
    count = min(most, len(test))
    return next(iter(test.batches([torch.arange(count) * (len(test) // count)], torch.device("cpu"))))


def give_out(page: str, out: Path | None) -> None:
    """Write a page to a file, or print it where none is named."""
    if out:
        out.write_text(page)
    else:
        print(page, end="")
