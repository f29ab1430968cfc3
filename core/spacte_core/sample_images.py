"""Held-out images that travel with a checkpoint, so that people can try a model on what it never saw.

OUT/samples/00017-3.png is image 17 of the test split, of class 3. They are not part of the checkpoint's version.
"""

from pathlib import Path

import torch
from PIL import Image

from .data import ImageData

FOLDER = "samples"
COUNT = 20  # chosen: two a class of ten


def write_samples(folder: Path, data: ImageData, count: int = COUNT) -> None:
    """Write `count` images, drawn at random under a fixed seed, as PNG files below `folder`.

    `data` must be a held-out split. Some sets are sorted by class, so that the first images would not do.
    """
    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    shuffled_N = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    for index in shuffled_N[:count].sort().values.tolist():
        for batch in data.batches([torch.tensor([index])], torch.device("cpu")):  # none where it is unreadable
            pixels_HWC = (batch.x_BCHW[0] * 255).round().to(torch.uint8).permute(1, 2, 0)
            picture = Image.fromarray(pixels_HWC.squeeze(2).numpy())  # grey without channels
            picture.save(place / f"{index:05d}-{int(batch.y_B[0])}.png")
