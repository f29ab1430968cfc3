"""Accuracy with and without noise, and what certificates are to be expected of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spacte_client.types import Diagnosis, NoiseLevel
from spacte_workers.shards import Image, NoiseSource, Phase, Shard
from spacte_workers.statistics.bounds import clopper_pearson_lower, radius

from .advice import advice

if TYPE_CHECKING:
    from spacte_workers.engine import Engine

LADDER = (0.12, 0.25, 0.5, 1.0)
"""Noise levels: those of Cohen et al. 2019 for CIFAR-10 and ImageNet."""

RADII = (0.0, 0.25, 0.5, 1.0)  # at which papers give certified accuracy
N0, N, ALPHA = 100, 100_000, 0.001  # of a certificate: Cohen et al. 2019, section 4
_SEED = "d1a9" * 8  # of noises that only estimate. Chosen: the same diagnosis twice


@dataclass(frozen=True)
class LabelledImages:
    """Images of a model's input shape and their classes.

    Attributes:
        images, labels: one each.
        data: what they are called.
    """

    images: Sequence[Image]
    labels: Sequence[int]
    data: str


def diagnose(
    engine: "Engine", found: LabelledImages, *, sigma: float, version: str, noises: int, ladder: Sequence[float]
) -> Diagnosis:
    """Measure a model on labelled images.

    Args:
        engine: of the model.
        found: what to measure on.
        sigma: the level that it is served at; it joins the ladder.
        version: of the model.
        noises: an image and level.
        ladder: further noise levels, above 0.
    """
    labels_M = np.asarray(found.labels)
    levels = [_level(engine, found.images, labels_M, level, noises) for level in sorted({*ladder, sigma} - {0.0})]
    clean = float((_clean_votes(engine, found.images) == labels_M).mean())
    seconds = (N0 + N) / engine.measured_rate
    measured = Diagnosis(
        data=found.data,
        images=len(labels_M),
        noises=noises,
        alpha=ALPHA,
        n=N,
        clean_accuracy=clean,
        levels=levels,
        sigma=sigma,
        device=str(engine.device),
        samples_per_second=round(engine.measured_rate, 1),
        seconds_per_certificate=round(seconds, 2),
        advice=[],
        model_version=version,
        created_at=datetime.now(UTC),
    )
    return measured.model_copy(update={"advice": advice(measured, engine.num_classes)})


def expected_radius(top_share: NDArray[np.float64], noises: int, sigma: float) -> NDArray[np.float64]:
    """The radius to be expected of a certificate with `N` noises, from few.

    Args:
        top_share: share of `noises` votes that went to the leading class.
        noises: how many votes there were.
        sigma: noise sd in units of [0, 1] pixels.
    """
    # All of few votes do not show that all of many would be: as with half a vote more on either side (Jeffreys 1946).
    share = (top_share * noises + 0.5) / (noises + 1)
    return radius(clopper_pearson_lower(np.floor(share * N), N, ALPHA), sigma)


def _level(
    engine: "Engine", images: Sequence[Image], labels_M: NDArray[np.int64], sigma: float, noises: int
) -> NoiseLevel:
    """What a model does under one level of noise."""
    source = NoiseSource(_SEED, 0, sigma, "grid" if all(image.dtype == "uint8" for image in images) else "float")
    shards = [
        (image, Shard(replace(source, image_index=index), Phase.PREDICTION, 0, noises))
        for index, image in enumerate(images)
    ]
    counts_MK = np.array([votes.counts for votes in engine.votes_many(shards)], np.float64)
    shares_MK = counts_MK / noises
    top_M, right_M = shares_MK.max(1), shares_MK.argmax(1) == labels_M
    radii_M = np.where(right_M, expected_radius(top_M, noises, sigma), 0.0)
    proven_M = right_M & (radii_M > 0)
    return NoiseLevel(
        sigma=sigma,
        noisy_accuracy=float(shares_MK[np.arange(len(labels_M)), labels_M].mean()),
        certified_accuracy={f"{r:g}": float((proven_M & (radii_M >= r)).mean()) for r in RADII},
        average_radius=float(radii_M.mean()),
        top_share=[float(q) for q in np.quantile(top_M, (0.25, 0.5, 0.75))],
    )


def _clean_votes(engine: "Engine", images: Sequence[Image]) -> NDArray[np.int64]:
    """The classes of the images themselves; K where the network has no defined answer."""
    import torch

    from spacte_core.forms import logits_of
    from spacte_core.votes import votes_of
    from spacte_workers.images import to_array

    rows = [
        torch.from_numpy(to_array(image).astype(np.float32) / (255 if image.dtype == "uint8" else 1))
        for image in images
    ]
    with torch.inference_mode():
        return votes_of(logits_of(engine.form, torch.stack(rows).to(engine.device))).cpu().numpy()
