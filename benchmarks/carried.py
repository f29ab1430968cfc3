"""What carrying votes over from one arithmetic to another costs and saves, on the CIFAR-10 model in the box.

    python -m benchmarks.carried --data parquet:../shared/data/cifar10 --images 40

Each image is voted on by int8, bf16 and the plain float32 network, on the same noises. How often a class wins and two
functions differ is measured so; certificates at larger n are simulated from these shares, because 100,000 noises an
image take hours of a core. Rates are rows a second of processor time, so that other work does not count.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spacte_core.checkpoint import load_checkpoint
from spacte_core.data import DataConfig, load_data
from spacte_workers.certification.carrying import LOSS, PAIRS_SHARE, PILOT, Pairs, anew, differences, enough_pairs
from spacte_workers.drawing import draw
from spacte_workers.engine import Engine
from spacte_workers.images import from_array
from spacte_workers.seeds import fresh_seed
from spacte_workers.shards import NoiseSource, Phase
from spacte_workers.statistics.bounds import clopper_pearson_lower, radius
from spacte_workers.statistics.disagreement import carried_lower

from .cifar10 import MODEL

ALPHA, N0 = 0.001, 100
RUNS = 50
"""Simulated certificates an image. Chosen: the mean of 40 images is known to a hundredth of itself then."""

FORMS: dict[str, dict[str, Any]] = {
    "int8": {"precision": "int8"},
    "bf16": {"precision": "bf16"},
    "plain float32": {"precision": "fp32", "kernels": "plain"},
}


@dataclass(frozen=True, slots=True)
class Shares:
    """Of one image: the share of votes of `voter` for the class, and of those that `about` does not share."""

    p: float
    zeta: float
    p_about: float


def measure(data: str, images: int, rows: int) -> tuple[dict[str, float], dict[tuple[str, str], list[Shares]]]:
    """Rows a second of each form, and the shares of each pair of forms that is carried over."""
    checkpoint = load_checkpoint(MODEL)
    engines = {name: Engine.from_checkpoint(checkpoint, min_agreement=0.0, **form) for name, form in FORMS.items()}
    test = load_data(DataConfig(source=data), "test")
    indices = torch.arange(images) * (len(test) // images)
    batch = next(iter(test.batches([indices], torch.device("cpu"))))
    pixels_BCHW = (255 * batch.x_BCHW).round().to(torch.uint8)
    spent, shares = dict.fromkeys(FORMS, 0.0), {("int8", "plain float32"): [], ("bf16", "int8"): []}
    for index, pixels_CHW in enumerate(pixels_BCHW):
        image = from_array(pixels_CHW, input_shape=checkpoint.config.model.input_shape)
        source = NoiseSource(fresh_seed(), index, checkpoint.config.sigma, "grid", output="logits")
        pairs = Pairs(source, Phase.DISAGREEMENT, rows, checkpoint.config.model.num_classes)
        votes: dict[str, NDArray[np.int64]] = {}
        for name, engine in engines.items():
            started = time.process_time()
            votes[name] = draw(pairs.run(), engine, image)
            spent[name] += time.process_time() - started
        for (voter, about), found in shares.items():
            label = int(np.bincount(votes[voter] + 1).argmax()) - 1
            both = differences(label, votes[voter], votes[about])
            p, p_about = (float((votes[name] == label).mean()) for name in (voter, about))
            found.append(Shares(p, (both + 0.5) / (rows + 1), p_about))  # no difference seen is not none at all
    return {name: images * rows / seconds for name, seconds in spent.items()}, shares


def kept_radius(shares: Sequence[Shares], n: int, part: float, generator: np.random.Generator) -> float:
    """Mean radius of certificates carried over by `part` of n more noises, over that of the voter's own."""
    own, carried = 0.0, 0.0
    pairs = round(part * n)
    for image in shares:
        votes = generator.binomial(n, image.p, RUNS)
        found = generator.binomial(pairs, image.zeta, RUNS)
        own += _mean(clopper_pearson_lower(votes, n, ALPHA))
        carried += _mean(carried_lower(votes, n, found, pairs, ALPHA))
    return carried / own


def recertified(shares: Sequence[Shares], n: int, generator: np.random.Generator) -> tuple[float, float, float]:
    """Votes saved as a factor, mean radius over that of certificates from scratch, share of images carried over."""
    votes = own = kept = carried = 0.0
    for image in shares:
        for _ in range(RUNS):
            own += _mean(clopper_pearson_lower(generator.binomial(n, image.p_about), n, ALPHA))
            successes = int(generator.binomial(n, image.p))
            base: Any = SimpleNamespace(counts=(successes, n - successes), label=0, n=n, alpha=ALPHA)
            pilot = int(generator.binomial(PILOT, image.zeta)), int(generator.binomial(PILOT, image.p_about))
            certified = _mean(clopper_pearson_lower(successes, n, ALPHA)) > 0
            pairs = enough_pairs(base, *pilot, n, LOSS) if certified else 0
            votes += 2 * PILOT * certified + (2 * pairs or N0 + n)
            if pairs:
                carried += 1
                found = generator.binomial(pairs, image.zeta)
                kept += _mean(carried_lower(successes, n, found, pairs, ALPHA))
            else:
                again = generator.binomial(n, image.p_about)
                kept += _mean(clopper_pearson_lower(again, n, anew(ALPHA)))
    cases = len(shares) * RUNS
    return cases * (N0 + n) / votes, kept / own, carried / cases


def _mean(p_lower: Any) -> float:
    return float(np.mean(radius(np.maximum(p_lower, 0.5), 1.0)))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="the test images, as `spacte train --data` takes them")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--rows", type=int, default=2_000, help="noises an image that all three vote on")
    options = parser.parse_args()
    rates, shares = measure(options.data, options.images, options.rows)
    generator = np.random.default_rng(0)
    print("| form | rows a second of processor time |\n| --- | ---: |")
    for name, rate in rates.items():
        print(f"| {name} | {rate:,.0f} |")
    print("\n| n | noises voted on by both | radius kept | faster than plain float32 |\n| ---: | ---: | ---: | ---: |")
    int8, plain = rates["int8"], rates["plain float32"]
    for n in (10_000, 100_000):
        for part in (PAIRS_SHARE / 2, PAIRS_SHARE, 2.5 * PAIRS_SHARE):
            kept = kept_radius(shares["int8", "plain float32"], n, part, generator)
            faster = (1 / plain) / ((1 + part) / int8 + part / plain)
            print(f"| {n:,} | {part:.0%} | {kept:.1%} | {faster:.2f} times |")
    print("\n| n | fewer votes than from scratch | radius kept | images carried over |\n| ---: | ---: | ---: | ---: |")
    for n in (10_000, 100_000):
        fewer, kept, carried = recertified(shares["bf16", "int8"], n, generator)
        print(f"| {n:,} | {fewer:.1f} times | {kept:.1%} | {carried:.0%} |")
    differ = {pair: float(np.median([image.zeta for image in found])) for pair, found in shares.items()}
    print(
        "\nMedian share of noises on which they differ: "
        + ", ".join(f"{a} and {b} {z:.4f}" for (a, b), z in differ.items())
    )


if __name__ == "__main__":
    main()
