"""What the demo serves and certifies: a trained model, and the held-out images in its folder."""

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
class HeldOutImage:
    """An image that the model was not trained on: its file and its true class."""

    file: Path
    label: int

    def pixels(self) -> NDArray[np.uint8]:
        """The image [C, H, W] as uint8."""
        pixels = np.asarray(Image.open(self.file))
        return pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


@dataclass(frozen=True)
class DemoModel:
    """A model of the demo.

    Attributes:
        folder: the checkpoint; the folder above it is served.
        content: what its images show.
        recipe: how it is trained where it is not there; None for a model that comes with the repository.
    """

    folder: Path
    content: str
    recipe: str | None = None

    def held_out(self) -> list[HeldOutImage]:
        """Images of the test split that were drawn at random once; each file is called INDEX-LABEL.png."""
        files = sorted((self.folder / "samples").glob("*.png"))
        return [HeldOutImage(file, int(file.stem.rpartition("-")[2])) for file in files]

    def train_if_missing(self) -> None:
        """Train the model, unless it is there."""
        if (self.folder / "config.json").exists() and self.held_out():
            hint = "; delete the folder to train it anew" if self.recipe else ""
            print(f"Model found in {self.folder}{hint}.", flush=True)
            return
        if self.recipe is None:
            raise SystemExit(f"There is no model in {self.folder}: it comes with the repository, so clone it anew.")
        print(f"Training {self.recipe} into {self.folder}: five heads, sigma 0.25.", flush=True)
        start = time.monotonic()
        subprocess.run(spacte("train", self.recipe, "--out", str(self.folder), "--resume"), check=True)
        print(f"Trained in {time.monotonic() - start:.0f} s.", flush=True)


DEMO_MODELS = {
    "digits": DemoModel(HERE / "models" / "digits", "handwritten digits", recipe="digits-spacte-gaussian"),
    "cifar10": DemoModel(
        HERE.parent / "models" / "cifar10-fast-spacte-consistency-0.25", "CIFAR-10 test images (JPEG-coded)"
    ),
}
