"""What carrying votes over to another arithmetic or to the next epoch saves, on the CIFAR-10 model in the box.

    python -m benchmarks.carried --data parquet:PATH [--next CHECKPOINT] --out benchmarks/results/carried.md

Each image is voted on by int8, bf16 and the plain float32 network, and by a checkpoint that was trained on from this
one, on the same noises. How often a class wins and two functions differ is measured so; certificates at larger n are
simulated from these shares by the rules of `spacte recertify`, because 100,000 noises an image take hours of a core.
Rates are rows a second of processor time, so that other work counts little.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spacte_core.checkpoint import load_checkpoint
from spacte_workers.certification.carrying import LOSS, PAIRS_SHARE, PILOT, Pairs, anew, differences, enough_pairs
from spacte_workers.drawing import draw
from spacte_workers.engine import Engine
from spacte_workers.images import from_array
from spacte_workers.seeds import fresh_seed
from spacte_workers.shards import NoiseSource, Phase
from spacte_workers.statistics.bounds import clopper_pearson_lower, radius
from spacte_workers.statistics.disagreement import carried_lower

from .cifar10 import MODEL
from .common import give_out, spread_images
from .machine import this_machine

ALPHA, N0 = 0.001, 100
RUNS = 50
"""Simulated certificates an image. Chosen: the mean of 40 images is known to a hundredth of itself then."""

FORMS: dict[str, dict[str, Any]] = {
    "int8": {"precision": "int8"},
    "bf16": {"precision": "bf16"},
    "plain float32": {"precision": "fp32", "kernels": "plain"},
}
NEXT = "next epoch, bf16"
REFERENCE = "int8", "plain float32"
CHANGES = ("bf16", "int8"), ("bf16", NEXT)
"""What `spacte recertify` is asked to carry over."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Of one image: the share of votes of `voter` for the class, and of those that `about` does not share."""

    p: float
    zeta: float
    p_about: float


def measure(
    data: str, images: int, rows: int, following: Path | None
) -> tuple[dict[str, float], dict[tuple[str, str], list[Shares]]]:
    """Rows a second of each function, and the shares of each pair of functions that is carried over."""
    checkpoint = load_checkpoint(MODEL)
    engines = {name: Engine.from_checkpoint(checkpoint, min_agreement=0.0, **form) for name, form in FORMS.items()}
    if following is not None:
        engines[NEXT] = Engine.from_checkpoint(load_checkpoint(following), min_agreement=0.0, precision="bf16")
    pixels_BCHW = (255 * spread_images(data, images).x_BCHW).round().to(torch.uint8)
    spent = dict.fromkeys(engines, 0.0)
    shares: dict[tuple[str, str], list[Shares]] = {pair: [] for pair in (REFERENCE, *CHANGES) if pair[1] in engines}
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


def tables(rates: dict[str, float], shares: dict[tuple[str, str], list[Shares]]) -> Iterator[str]:
    """Lines of Markdown."""
    generator = np.random.default_rng(0)
    yield from ("| Function | Rows a second of processor time |", "|---|---:|")
    yield from (f"| {name} | {rate:,.0f} |" for name, rate in rates.items())
    yield from ("", "## int8 votes, certificates of the plain float32 network", "")
    yield from ("| n | Voted on by both | Radius kept | Faster than plain float32 |", "|---:|---:|---:|---:|")
    int8, plain = (rates[name] for name in REFERENCE)
    for n in (10_000, 100_000):
        for part in (PAIRS_SHARE / 2, PAIRS_SHARE, 2.5 * PAIRS_SHARE):
            kept = kept_radius(shares[REFERENCE], n, part, generator)
            faster = (1 / plain) / ((1 + part) / int8 + part / plain)
            yield f"| {n:,} | {part:.0%} | {kept:.1%} | {faster:.2f} times |"
    yield from ("", "## After a change", "")
    yield "| From | To | n | Fewer votes than from scratch | Radius kept | Carried over |"
    yield "|---|---|---:|---:|---:|---:|"
    for voter, about in CHANGES:
        for n in (10_000, 100_000) if (voter, about) in shares else ():
            fewer, kept, carried = recertified(shares[voter, about], n, generator)
            yield f"| {voter} | {about} | {n:,} | {fewer:.1f} times | {kept:.1%} | {carried:.0%} |"
    yield ""
    yield from ("| Differ | Share of an image's noises, median | Worst tenth |", "|---|---:|---:|")
    for (voter, about), found in shares.items():
        median, worst = np.quantile([image.zeta for image in found], (0.5, 0.9))
        yield f"| {voter} and {about} | {median:.4f} | {worst:.4f} |"


def main() -> None:
    """Measure, and print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the test images, as `spacte train --data` takes them")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rows", type=int, default=500, help="noises an image that all vote on")
    parser.add_argument("--next", type=Path, help="a checkpoint that was trained on from the model in the box")
    parser.add_argument("--out", type=Path, help="file for the tables")
    options = parser.parse_args()
    found = tables(*measure(options.data, options.images, options.rows, options.next))
    head = [
        "# What carrying votes over costs and saves",
        "",
        f"{this_machine()}, {datetime.now(UTC).date()}. {options.images} CIFAR-10 test images, {options.rows} noises",
        f"each, the model in the box; certificates at n with alpha = {ALPHA} are simulated from the shares measured",
        f"so, {RUNS} of each image. Where no noise of an image differs, half a one counts, a share of",
        f"{0.5 / (options.rows + 1):.4f}: what is kept and saved is then a lower bound.",
        "",
        "    python -m benchmarks.carried --data parquet:PATH [--next CHECKPOINT] --out benchmarks/results/carried.md",
        "",
    ]
    give_out("\n".join([*head, *found]) + "\n", options.out)


if __name__ == "__main__":
    main()
