"""`make demo`: train the model if there is none, serve it, certify held-out images, draw the result.

    python demo/demo.py                     scikit-learn's handwritten digits, trained here
    python demo/demo.py --model cifar10     CIFAR-10, with the model that comes with the repository

Everything is real: the model never saw the images that are certified; the certificates come over HTTP from a
gateway whose samplers are Ray actors on this machine.
"""

import argparse
import time
from pathlib import Path

from demo_models import DEMO_MODELS
from gateway import serving
from picture import draw
from rich.console import Console
from rich.table import Table

from spacte_client.rounding import rounded_down_text
from spacte_client.types import Certificate

NOISES = 10_000
"""Chosen: the gateway's default, a second or so an image on two CPUs."""

PICTURE = Path(__file__).parent / "certified.png"
console = Console()


def report(content: str, names: list[str], labels: list[int], certificates: list[Certificate], seconds: float) -> None:
    """Print a line an image, and what they come to."""
    table = Table(title=f"{len(labels)} {content} the model never trained on, n = {NOISES:,} noises each")
    for heading in ("true", "answer", "certified radius", "votes", "ms"):
        table.add_column(heading, justify="right")
    for label, c in zip(labels, certificates, strict=True):
        answer = "abstained" if c.abstained else names[c.label]
        colour = "green" if c.label == label else "yellow" if c.abstained else "red"
        radius, votes = rounded_down_text(c.radius, 3), f"{max(c.counts):,} / {c.n:,}"
        table.add_row(names[label], f"[{colour}]{answer}[/]", radius, votes, f"{c.elapsed_ms:.0f}")
    console.print(table)
    correct = [c.radius for c, label in zip(certificates, labels, strict=True) if c.label == label]
    mean_radius = rounded_down_text(sum(correct) / len(labels), 3)
    console.print(
        f"accuracy [bold]{len(correct)}/{len(labels)}[/], mean radius [bold]{mean_radius}[/] "
        f"(a wrong or withheld answer counts as 0), {seconds:.1f} s over HTTP"
    )


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description="Train, serve, certify, draw.")
    parser.add_argument("--model", default="digits", choices=sorted(DEMO_MODELS))
    model = DEMO_MODELS[parser.parse_args().model]
    model.train_if_missing()
    images = model.held_out()
    labels = [image.label for image in images]
    console.print("Starting the gateway (a local Ray with one sampler a CPU) ...")
    with serving(model.folder.parent) as client:
        names = client.models.get(model.folder.name).class_names
        start = time.monotonic()
        certificates = [client.certify(image.file, model=model.folder.name, n=NOISES) for image in images]
        seconds = time.monotonic() - start
    report(model.content, names, labels, certificates, seconds)
    draw([image.pixels() for image in images], names, labels, certificates, PICTURE)
    console.print(f"Picture: {PICTURE}")


if __name__ == "__main__":
    main()
