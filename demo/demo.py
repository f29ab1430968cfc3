"""`make demo`: train the model if there is none, serve it, certify held-out images, draw the result.

    python demo/demo.py                     scikit-learn's handwritten digits, trained here
    python demo/demo.py --model cifar10     CIFAR-10, with the model that comes with the repository

Everything is real: the model never saw the images that are certified; the certificates come over HTTP from a
gateway whose samplers are Ray actors on this machine.
"""

import argparse
import time
from pathlib import Path

from gateway import serving
from picture import draw
from rich.console import Console
from rich.table import Table
from stock import STOCKS, HeldOut, held_out, prepare

from spacte_client import Client
from spacte_client.rounding import round_down
from spacte_client.types import Certificate

NOISES = 10_000
PICTURE = Path(__file__).parent / "certified.png"
console = Console()


def certify(client: Client, images: list[HeldOut], model: str) -> list[Certificate]:
    """Ask the gateway for one certificate an image."""
    return [client.certify(image.file, model=model, n=NOISES) for image in images]


def report(things: str, names: list[str], labels: list[int], certificates: list[Certificate], seconds: float) -> None:
    """Print a line an image, and what they come to."""
    table = Table(title=f"{len(labels)} {things} the model never trained on, n = {NOISES:,} noises each")
    for heading in ("true", "answer", "certified radius", "votes", "ms"):
        table.add_column(heading, justify="right")
    for label, c in zip(labels, certificates, strict=True):
        answer = "abstained" if c.abstained else names[c.label]
        colour = "green" if c.label == label else "yellow" if c.abstained else "red"
        table.add_row(
            names[label],
            f"[{colour}]{answer}[/]",
            f"{round_down(c.radius, 3):.3f}",
            f"{max(c.counts):,} / {c.n:,}",
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
    parser.add_argument("--model", default="digits", choices=sorted(STOCKS))
    stock = STOCKS[parser.parse_args().model]
    prepare(stock)
    images = held_out(stock)
    labels = [image.label for image in images]
    console.print("Starting the gateway (a local Ray with one sampler a CPU) ...")
    with serving(stock.models) as client:
        names = client.models.get(stock.name).class_names
        started = time.monotonic()
        certificates = certify(client, images, stock.name)
        seconds = time.monotonic() - started
    report(stock.things, names, labels, certificates, seconds)
    draw([image.pixels() for image in images], names, labels, certificates, PICTURE)
    console.print(f"Picture: {PICTURE}")


if __name__ == "__main__":
    main()
