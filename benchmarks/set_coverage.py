"""How often robust prediction sets hold the true class, over 1,000 random splits, and how large they are.

    python -m benchmarks.set_coverage --digits DIR --data parquet:PATH --out benchmarks/results/sets.md

Scores of test images under noise are computed once: as they are, and after an attack within the radius. Each split
calibrates on half of the images as they are, and asks for sets of the others, each by noises of its own. A linear
classifier stands beside them, whose worst perturbation is known: there the coverage is what the theory says.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spacte_core.checkpoint import load_checkpoint
from spacte_core.models import MultiHeadNet
from spacte_workers.certification.prediction_sets import scores as scores_of
from spacte_workers.statistics.prediction_sets import SetRule, bincp, rcp1

from .cifar10 import MODEL
from .common import spread_images
from .machine import this_machine

ALPHA, SPLITS = 0.1, 1_000
NOISES = 150
"""Of BinCP for each image."""

SHIFTS = (0.0, 0.25, 0.5)
"""Radius in units of sigma; at 0 the sets are not robust."""

ATTACK_STEPS, ATTACK_NOISES = 10, 8
ROWS = 512

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Images:
    """Scores of every image: [M, N, K] as it is and attacked, and the true classes [M]."""

    name: str
    clean_MNK: Scores
    attacked_MNK: Callable[[float], Scores]
    labels_M: NDArray[np.int64]


def network_images(name: str, checkpoint: Path, data: str, most: int) -> Images:
    """Images of a data set under a checkpoint's noise."""
    loaded = load_checkpoint(checkpoint)
    net, sigma = loaded.net.eval(), loaded.config.sigma
    batch = spread_images(data, most)
    x_MCHW, y_M = batch.x_BCHW, batch.y_B
    clean = noisy_scores(net, x_MCHW, sigma, seed=0)

    def attacked(shift: float) -> Scores:
        return noisy_scores(net, attack(net, x_MCHW, y_M, sigma, shift * sigma), sigma, seed=1)

    return Images(name, clean, attacked, y_M.numpy())


def noisy_scores(net: MultiHeadNet, x_MCHW: Tensor, sigma: float, *, seed: int) -> Scores:
    """[M, NOISES, K]."""
    generator = torch.Generator().manual_seed(seed)
    found: list[Scores] = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for x_CHW in x_MCHW:
            noise = sigma * torch.randn(NOISES, *x_CHW.shape, generator=generator)
            logits_NK = torch.stack(net(x_CHW + noise)).float().mean(0)
            found.append(scores_of(logits_NK.numpy()))
    return np.stack(found)


def attack(net: MultiHeadNet, x_MCHW: Tensor, y_M: Tensor, sigma: float, radius: float) -> Tensor:
    """Images within the radius whose true class scores low on the mean over noises: PGD on the L2 ball."""
    if radius == 0:
        return x_MCHW
    generator = torch.Generator().manual_seed(2)
    delta = torch.zeros_like(x_MCHW)
    step = 2 * radius / ATTACK_STEPS
    for start in range(0, len(x_MCHW), ROWS // ATTACK_NOISES):
        part = slice(start, start + ROWS // ATTACK_NOISES)
        x, y = x_MCHW[part], y_M[part].repeat_interleave(ATTACK_NOISES)
        moved = delta[part]
        for _ in range(ATTACK_STEPS):
            moved = moved.detach().requires_grad_()
            rows = (x + moved).repeat_interleave(ATTACK_NOISES, 0)
            with torch.autocast("cpu", torch.bfloat16):
                logits = torch.stack(net(rows + sigma * torch.randn(rows.shape, generator=generator))).float().mean(0)
            torch.nn.functional.cross_entropy(logits, y, reduction="sum").backward()
            assert moved.grad is not None
            ahead = (
                moved.detach()
                + step * moved.grad / moved.grad.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]
            )
            length = ahead.flatten(1).norm(dim=1)[:, None, None, None]
            moved = (x + ahead * (radius / length).clamp_max(1.0)).clamp(0, 1) - x
        delta[part] = moved.detach()
    return x_MCHW + delta


def linear_images(count: int) -> Images:
    """Two classes on both sides of a plane; the worst perturbation goes straight at it."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, count)
    side = np.where(labels == 1, 1.0, -1.0)
    place = side * generator.normal(1.0, 1.0, count)  # in units of sigma

    def seen(shift: float, seed: int) -> Scores:
        noise = np.random.default_rng(seed).normal(size=(count, NOISES))
        value = (place - side * shift)[:, None] + noise
        return scores_of(np.stack([-value, value], 2).reshape(-1, 2).astype(np.float32)).reshape(count, NOISES, 2)

    return Images("linear classifier", seen(0.0, 1), partial(seen, seed=2), labels)


def held(rule: SetRule, scores_MNK: Scores, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Which classes are in each image's set, [M, K]."""
    if rule.samples == 1:
        chosen = generator.integers(0, scores_MNK.shape[1], len(scores_MNK))
        scores_MNK = scores_MNK[np.arange(len(scores_MNK)), chosen][:, None]
    return (scores_MNK >= rule.threshold).sum(1) >= rule.votes


def measure(images: Images, shift: float) -> list[str]:
    """Rows of the table: each method at one radius."""
    attacked_MNK = images.attacked_MNK(shift)
    count = len(images.labels_M)
    own_MN = images.clean_MNK[np.arange(count), :, images.labels_M]
    rows: list[str] = []
    for name, rule_of in (("RCP1", rcp1), ("BinCP", bincp)):
        generator = np.random.default_rng(3)
        clean, attacked, sizes = (np.zeros(SPLITS) for _ in range(3))
        for split in range(SPLITS):
            order = generator.permutation(count)
            calibration, test = order[: count // 2], order[count // 2 :]
            given = own_MN[calibration]
            if rule_of is rcp1:
                given = given[np.arange(len(given)), generator.integers(0, NOISES, len(given))]
            rule = rule_of(given, alpha=ALPHA, shift=shift)
            for scores_MNK, into in ((images.clean_MNK, clean), (attacked_MNK, attacked)):
                inside = held(rule, scores_MNK[test], generator)
                into[split] = inside[np.arange(len(test)), images.labels_M[test]].mean()
                if into is clean:
                    sizes[split] = inside.sum(1).mean()
        error = 3 * np.sqrt(ALPHA * (1 - ALPHA) / count)  # of all images, which the splits share
        verdict = "yes" if min(clean.mean(), attacked.mean()) >= 1 - ALPHA - error else "**no**"
        rows.append(
            f"| {images.name} | {count} | {shift:g} | {name} | {clean.mean():.3f} | {attacked.mean():.3f} "
            f"| {verdict} | {sizes.mean():.2f} of {images.clean_MNK.shape[2]} |"
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--digits", type=Path, required=True, help="a digits checkpoint")
    parser.add_argument("--data", required=True, help="CIFAR-10's test images, as `spacte train --data` takes them")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--out", type=Path, help="file for the table")
    options = parser.parse_args()
    all_images = [
        linear_images(2_000),
        network_images("digits", options.digits, "digits", options.images),
        network_images("CIFAR-10, the model in the box", MODEL, options.data, options.images),
    ]
    rows = [row for images in all_images for shift in SHIFTS for row in measure(images, shift)]
    text = f"""# How often prediction sets hold the true class

{this_machine()}. alpha = {ALPHA}, {SPLITS:,} random splits into halves for calibration and test; RCP1 by one
noise an image, BinCP by {NOISES}. Attacked: the worst perturbation for the linear classifier, else
{ATTACK_STEPS} steps of PGD against the true class's score over {ATTACK_NOISES} noises. `Holds`: both are at least
1 - alpha, less three standard errors of a share of all images. A radius of 0 gives the set that is not robust, and
there is no attack.

    python -m benchmarks.set_coverage --digits DIR --data parquet:PATH --out benchmarks/results/sets.md

| Images | How many | Radius / sigma | Method | Coverage | Under attack | Holds | Classes in a set, no attack |
|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}
"""
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
