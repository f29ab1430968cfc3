"""What the demo serves and certifies: a trained model, and the held-out images that travel with it."""

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gateway import spacte
from numpy.typing import NDArray
from PIL import Image

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Stock:
    """A model of the demo.

    Attributes:
        models: the folder to serve.
        name: of the model in it.
        things: what its images show.
        recipe: how it is trained where it is not there; None for a model that comes with the repository.
    """

    models: Path
    name: str
    things: str
    recipe: str | None = None

    @property
    def folder(self) -> Path:
        """The checkpoint."""
        return self.models / self.name


@dataclass(frozen=True)
class HeldOut:
    """An image that the model was not trained on: its file and its true class."""

    file: Path
    label: int

    def pixels(self) -> NDArray[np.uint8]:
        """The image [C, H, W] as uint8."""
        pixels = np.asarray(Image.open(self.file))
        return pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


STOCKS = {
    "digits": Stock(HERE / "models", "digits", "handwritten digits", recipe="digits-spacte-gaussian"),
    "cifar10": Stock(
        HERE.parent / "models", "cifar10-resnet20-spacte-gaussian-0.25", "CIFAR-10 test images (JPEG-coded)"
    ),
}


def prepare(stock: Stock) -> None:
    """Train the model, unless it is there."""
    if (stock.folder / "config.json").exists() and held_out(stock):
        hint = "; delete the folder to train it anew" if stock.recipe else ""
        print(f"Model found in {stock.folder}{hint}.", flush=True)
        return
    if stock.recipe is None:
        raise SystemExit(f"There is no model in {stock.folder}: it comes with the repository, so clone it anew.")
    print(f"Training {stock.recipe} into {stock.folder}: five heads, sigma 0.25.", flush=True)
    started = time.monotonic()
    subprocess.run(spacte("train", stock.recipe, "--out", str(stock.folder), "--resume"), check=True)
    print(f"Trained in {time.monotonic() - started:.0f} s.", flush=True)


def held_out(stock: Stock) -> list[HeldOut]:
    """Images of the test split that were drawn at random once; each file is called INDEX-LABEL.png."""
    files = sorted((stock.folder / "samples").glob("*.png"))
    return [HeldOut(file, int(file.stem.rpartition("-")[2])) for file in files]
