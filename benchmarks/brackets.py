"""How far the truth can be from the certificates of the CIFAR-10 model in the box: upper bounds by attack.

    python -m benchmarks.brackets --data parquet:PATH --out benchmarks/results/brackets.md

A certificate and an attack of each of some test images, as `spacte attack` makes them. An image that is not certified
has no bracket, and one for which the attack finds nothing has no upper bound.
"""

import argparse
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from spacte_client.types import Bracket
from spacte_core.checkpoint import load_checkpoint
from spacte_workers import LocalCertifier

from .cifar10 import MODEL
from .common import give_out, spread_images
from .machine import this_machine

WIDTHS = (0.1, 0.2, 0.5)


def brackets(data: str, images: int, n: int, n_upper: int) -> list[tuple[Bracket, float]]:
    """The bracket of each image, and its seconds."""
    certifier = LocalCertifier(MODEL)
    shape = load_checkpoint(MODEL).config.model.input_shape
    certifier.bracket(np.zeros(shape, np.uint8), n=100, n_upper=100)
    found: list[tuple[Bracket, float]] = []
    for x_CHW in spread_images(data, images).x_BCHW:
        pixels = (255 * x_CHW).round().to(torch.uint8).numpy()
        started = time.perf_counter()
        found.append((certifier.bracket(pixels, n=n, n_upper=n_upper), time.perf_counter() - started))
        print(f"{len(found)}: {found[-1][0].lower:.3f} {found[-1][0].upper} {found[-1][1]:.1f} s", flush=True)
    return found


def told(found: list[tuple[Bracket, float]], n: int, n_upper: int) -> str:
    """A page of Markdown."""
    certified = [bracket for bracket, _ in found if not bracket.certificate.abstained]
    bounded = [(bracket.lower, bracket.upper) for bracket in certified if bracket.upper is not None]
    ratios = np.array([upper / lower for lower, upper in bounded if lower > 0])
    quartiles = np.quantile(ratios, (0.25, 0.5, 0.75))
    seconds = np.array([spent for _, spent in found])
    widths = np.array([upper - lower for lower, upper in bounded])
    narrow = ", ".join(f"{(widths < most).mean():.0%} are narrower than {most:g}" for most in WIDTHS)
    return f"""# Lower and upper bounds of radii

{this_machine()}, {datetime.now(UTC).date()}. The CIFAR-10 model in the box, {len(found)} test images; n = {n:,},
at most {n_upper:,} noises for each test of an attack, alpha = .001 on either side.

    python -m benchmarks.brackets --data parquet:PATH --images {len(found)} --n {n} --n-upper {n_upper} --out FILE

- {len(certified)} images are certified, {len(bounded)} of them have an upper bound.
- Upper over lower: median **{quartiles[1]:.2f}**, half of them between {quartiles[0]:.2f} and {quartiles[2]:.2f}.
- Of the brackets {narrow}.
- Seconds an image: median {np.median(seconds):.1f}, mean {seconds.mean():.1f}, longest {seconds.max():.1f}.
"""


def main() -> None:
    """Measure, and print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the test images, as `spacte train --data` takes them")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--n", type=int, default=1_000)
    parser.add_argument("--n-upper", type=int, default=2_000)
    parser.add_argument("--out", type=Path, help="file for the page")
    options = parser.parse_args()
    give_out(
        told(brackets(options.data, options.images, options.n, options.n_upper), options.n, options.n_upper),
        options.out,
    )


if __name__ == "__main__":
    main()
