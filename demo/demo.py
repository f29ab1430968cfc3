"""`make demo`: train a small model if there is none, serve it, certify held-out images, draw the result.

    python demo/demo.py

Everything is real: the images are scikit-learn's handwritten digits, of which the model never sees the ones
certified here; the certificates come over HTTP from a gateway whose samplers are Ray actors on this machine.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from gateway import MODELS, serving
from numpy.typing import NDArray
from picture import draw
from rich.console import Console
from rich.table import Table
from stock import held_out, png, train

from spacte_client import Client
from spacte_client.types import Certificate
from spacte_workers.statistics.rounding import round_down

IMAGES = 20
NOISES = 10_000
PICTURE = Path(__file__).parent / "certified.png"
console = Console()


def certify(client: Client, images_NCHW: NDArray[np.uint8], model: str) -> list[Certificate]:
    """Ask the gateway for one certificate an image."""
    return [client.certify(png(image), model=model, n=NOISES) for image in images_NCHW]


def report(labels: list[int], certificates: list[Certificate], seconds: float) -> None:
    """Print a line an image, and what they come to."""
    table = Table(title=f"{len(labels)} digits the model never trained on, n = {NOISES:,} noises each")
    for heading in ("true", "answer", "certified radius", "votes", "ms"):
        table.add_column(heading, justify="right")
    for label, c in zip(labels, certificates, strict=True):
        answer = "abstained" if c.abstained else str(c.label)
        colour = "green" if c.label == label else "yellow" if c.abstained else "red"
        votes = f"{max(c.counts):,} / {c.n:,}"
        table.add_row(
            str(label),
            f"[{colour}]{answer}[/]",
            f"{round_down(c.radius, 3):.3f}",
            votes,
            f"{c.elapsed_ms:.0f}",
        )
    console.print(table)
    right = [c.radius for c, y in zip(certificates, labels, strict=True) if c.label == y]
    mean_radius = sum(right) / len(labels)
    console.print(
        f"accuracy [bold]{len(right)}/{len(labels)}[/], mean radius [bold]{round_down(mean_radius, 3):.3f}[/] "
        f"(a wrong or withheld answer counts as 0), {seconds:.1f} s over HTTP"
    )


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description="Train, serve, certify, draw.")
    parser.add_argument("--model", default="digits", choices=["digits"])
    model = parser.parse_args().model
    train(MODELS / model)
    images_NCHW, labels = held_out(IMAGES)
    console.print("Starting the gateway (a local Ray with one sampler a CPU) ...")
    with serving() as client:
        started = time.monotonic()
        certificates = certify(client, images_NCHW, model)
        seconds = time.monotonic() - started
    report(labels, certificates, seconds)
    draw(images_NCHW, [str(digit) for digit in range(10)], labels, certificates, PICTURE)
    console.print(f"Picture: {PICTURE}")


if __name__ == "__main__":
    main()
