"""Conformal prediction sets that stay right under perturbations within an L2 radius.

A score s(x, y) is the larger, the better the class y fits the input x. Under Gaussian noise, an event of probability p
at x has probability at least c(p) = Phi(Phi^-1(p) - r / sigma) at every x' within r of x (Cohen et al. 2019, lemma 4).
Both methods carry exchangeability of calibration and test images, which holds for images as they were drawn, over to
perturbed ones by c. The guarantee is marginal: over images and noise together, not for each image.

`total_variation` is that between the noise as drawn and the Gaussian, over an image: an event's probability differs by
no more, at x and at x'.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, bdtrc, ndtr, ndtri  # pyright: ignore[reportMissingTypeStubs]

BINARY_SHARE = 0.05
"""Share of alpha that each of the two binomial terms of BinCP gets. Chosen: at 150 noises and alpha .1 it costs fewer
labels than .02 (the binomial margins grow) or .2 (the threshold falls)."""


def carried(p: ArrayLike, shift: float, total_variation: float = 0.0) -> NDArray[np.float64]:
    """The least probability, `shift` = r / sigma away, of an event of probability p; in [0, 1].

    Cohen et al. 2019, lemma 4. It is convex in p, so it holds for means over images as well (Jensen).
    """
    here = np.clip(np.asarray(p, np.float64) - total_variation, 0.0, 1.0)
    return np.clip(ndtr(ndtri(here) - shift) - total_variation, 0.0, 1.0)


def needed(p: float, shift: float, total_variation: float = 0.0) -> float:
    """The probability that an event must have for it to keep p when it is carried; above 1 where nothing suffices."""
    if p + total_variation >= 1.0:
        return math.inf
    return float(ndtr(ndtri(p + total_variation) + shift)) + total_variation


def threshold(scores: ArrayLike, coverage: float) -> float:
    """The largest threshold that a new score reaches with probability at least `coverage`.

    Split conformal prediction (Vovk et al. 2005): with m exchangeable scores, the floor((1 - coverage)(m + 1))-th
    smallest; minus infinity where there are too few scores for that.
    """
    values = np.sort(np.asarray(scores, np.float64))
    rank = math.floor((1.0 - coverage) * (len(values) + 1) + 1e-9)  # 1e-9 against .1 * 20 = 1.9999...
    return float(values[rank - 1]) if rank >= 1 else -math.inf


@dataclass(frozen=True, slots=True)
class SetRule:
    """Which classes are in the set: those whose score reaches `threshold` on at least `votes` of `samples` noises.

    Attributes:
        samples: noises, N.
        votes: how many must reach the threshold, 1..N; 0 puts every class into the set.
        threshold: of the score.
    """

    samples: int
    votes: int
    threshold: float

    def labels(self, scores_NK: ArrayLike) -> list[int]:
        """The classes in the set, ascending, by their scores on N noises."""
        reached_K = (np.asarray(scores_NK) >= self.threshold).sum(0)  # all, where the threshold is minus infinity
        return [int(label) for label in np.flatnonzero(reached_K >= self.votes)]


def rcp1(scores_M: ArrayLike, *, alpha: float, shift: float, total_variation: float = 0.0) -> SetRule:
    """RCP1: one noise for each image (Zargarbashi & Bojchevski 2025, "One Sample is Enough").

    The threshold is conformal at the level that keeps 1 - alpha when it is carried over r.

    Args:
        scores_M: scores of the true classes of M calibration images, each under one noise.
        alpha: probability that the set misses the truth, in (0, 1).
        shift: r / sigma.
        total_variation: see above.
    """
    return SetRule(1, 1, threshold(scores_M, needed(1.0 - alpha, shift, total_variation)))


def bincp(scores_MN: ArrayLike, *, alpha: float, shift: float, total_variation: float = 0.0) -> SetRule:
    """BinCP: votes over N noises for each image (Zargarbashi & Bojchevski 2025, "Robust Conformal Prediction with a
    Single Binary Certificate"), with finite-sample terms of our own that are exact.

    Let q be the probability that a noise lifts the true class's score to the threshold. Calibration gives
    P(at least k of N noises do) >= 1 - alpha_1. If q were below p, that event had probability at most
    P(Bin(N, p) >= k) = alpha_2. So q >= p but for alpha_1 + alpha_2, hence q' >= c(p) at x', where fewer than k' of N
    noises reach the threshold with probability at most P(Bin(N, c(p)) < k') = alpha_3. The sum of the three is at most
    alpha.

    p is Phi(shift / 2), where the carried probability is 1 - p and the two margins are alike; at least .5.

    Args:
        scores_MN: scores of the true classes of M calibration images under N noises each.
        alpha, shift, total_variation: as for `rcp1`.
    """
    scores = np.asarray(scores_MN, np.float64)
    samples = scores.shape[1]
    share = BINARY_SHARE * alpha
    p = float(ndtr(shift / 2.0))
    there = float(carried(p, shift, total_variation))
    counts = np.arange(samples + 1, dtype=np.float64)
    at_least = 1 + int((bdtrc(counts, samples, p) > share).sum())  # smallest k with P(Bin(N, p) >= k) <= share
    votes = int((bdtr(counts, samples, there) <= share).sum())  # largest k' with P(Bin(N, c(p)) < k') <= share
    if at_least > samples:
        return SetRule(samples, 0, -math.inf)
    kth_M = np.sort(scores, axis=1)[:, samples - at_least]  # at least k scores reach the k-th largest
    return SetRule(samples, votes, threshold(kth_M, 1.0 - (alpha - 2.0 * share)))
