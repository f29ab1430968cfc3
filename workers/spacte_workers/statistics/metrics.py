"""What certificates of a test set show together: certified accuracy with its interval, ACR, the joint claim.

An abstention counts as a wrong answer with radius 0. Radii are those written in the certificates, rounded down.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binom  # pyright: ignore[reportMissingTypeStubs]

from spacte_client.types import CertifiedAccuracy

from .bounds import FloatArray, clopper_pearson_lower, clopper_pearson_upper


def certified_accuracy(
    correct: Sequence[bool], radii: Sequence[float], at: Sequence[float], confidence: float = 0.95
) -> list[CertifiedAccuracy]:
    """Share of images that are answered correctly with a radius of at least r: Cohen et al. 2019, section 4.

    Each comes with its two-sided Clopper-Pearson interval.

    Args:
        correct: per image, whether the label is the true one.
        radii: per image, the certified radius; not negative.
        at: where to evaluate, the radii r.
        confidence: of each interval by itself, over the choice of the test images.

    Raises:
        ValueError: there is no image.
    """
    reached = _radii_of_correct(correct, radii)
    images, tail = len(reached), (1.0 - confidence) / 2.0
    if images == 0:
        raise ValueError("certified accuracy needs at least one image")
    right, r = np.asarray(correct, np.bool_), np.asarray(at, np.float64)
    hits = np.sum(right[None, :] & (reached[None, :] >= r[:, None]), axis=1)
    low, high = clopper_pearson_lower(hits, images, tail), clopper_pearson_upper(hits, images, tail)
    return [
        CertifiedAccuracy(radius=float(a), value=float(b) / images, low=float(c), high=float(d))
        for a, b, c, d in zip(r, hits, low, high, strict=True)
    ]


def average_certified_radius(correct: Sequence[bool], radii: Sequence[float]) -> float:
    """ACR, the mean over images of correct * radius: Zhai et al. 2020, section 5.

    Args:
        correct: per image, whether the label is the true one.
        radii: per image, the certified radius.

    Raises:
        ValueError: there is no image.
    """
    reached = _radii_of_correct(correct, radii)
    if len(reached) == 0:
        raise ValueError("the average certified radius needs at least one image")
    return float(np.mean(reached))


def most_false(images: int, alpha: float, rho: float) -> int:
    """How many of the certificates of a job are false, at most, with probability 1 - rho.

    Each is false with probability at most alpha, independently, because images share no noise; so this is the 1 - rho
    quantile of a binomial distribution: 4 of 500 and 21 of 10,000 at rho = alpha = .001.
    """
    if images == 0:
        return 0
    return int(binom.isf(rho, images, alpha))  # pyright: ignore[reportUnknownMemberType]


def _radii_of_correct(correct: ArrayLike, radii: ArrayLike) -> FloatArray:
    return np.where(np.asarray(correct, np.bool_), np.asarray(radii, np.float64), 0.0)
