"""What the demo needs before it can serve: a trained model, and images that it never saw."""

import io
import subprocess
import time
from pathlib import Path

import numpy as np
from gateway import spacte
from numpy.typing import NDArray
from PIL import Image

from spacte_trainer.data.digits import load_digits

RECIPE = "digits-spacte-gaussian"


def train(folder: Path) -> None:
    """Train the embedded five-head model into `folder`, unless it is there."""
    if (folder / "config.json").exists():
        print(f"Model found in {folder}; delete the folder to train it anew.", flush=True)
        return
    print(f"Training {RECIPE} into {folder}: five heads, sigma 0.25.", flush=True)
    started = time.monotonic()
    subprocess.run(spacte("train", RECIPE, "--out", str(folder)), check=True)
    print(f"Trained in {time.monotonic() - started:.0f} s.", flush=True)


def held_out(count: int) -> tuple[NDArray[np.uint8], list[int]]:
    """`count` images [N, 1, 8, 8] spread evenly over the test split, and their labels."""
    images_NCHW, labels_N = load_digits("test")
    chosen = np.linspace(0, len(labels_N) - 1, count).astype(int)
    return np.asarray(images_NCHW)[chosen], [int(label) for label in np.asarray(labels_N)[chosen]]


def png(image_CHW: NDArray[np.uint8]) -> bytes:
    """A greyscale image [1, H, W] as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image_CHW[0]).save(buffer, format="PNG")
    return buffer.getvalue()
