"""Confidence sequences: bounds that hold at every sample count at once, so looking often costs no validity.

The one-sided Beta mixture with a = b = 1/2 (Robbins 1970; Howard et al. 2021, section 3.5, there two-sided). To reject
a probability p0, the likelihood ratio of q against p0 is averaged over q > p0 with the Beta(1/2, 1/2) density:

    M_n(p0) = integral over q > p0 of (q / p0)^S ((1 - q) / (1 - p0))^(n - S) dBeta(q) / P(Beta > p0)

Where p <= p0, M_n is a non-negative supermartingale that starts at 1, so by Ville's inequality it ever reaches 1 /
alpha with probability at most alpha. M_n falls in p0 up to S/n, stays below 1 beyond, and grows in S.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincc, betaln, xlog1py, xlogy  # pyright: ignore[reportMissingTypeStubs]

from .bounds import LARGEST_P, FloatArray, broadcast, clopper_pearson_lower

_A = _B = 0.5  # the arcsine law, see above
_LOG_BETA = float(np.log(np.pi))  # ln B(1/2, 1/2)
_MAX_STEPS = 80  # chosen: bisection alone halves [0, 1] to below 1e-16 in 54; Newton's steps are 3 or 4


def log_mixture(successes: ArrayLike, n: ArrayLike, p0: ArrayLike) -> FloatArray:
    """ln M_n(p0), the evidence that the probability is above p0, for 0 < p0 < 1.

    Args:
        successes: votes for the class, 0..n.
        n: votes in all, at least 1.
        p0: the probability to reject.

    Returns:
        ln M_n(p0); p0 is rejected at level alpha where it is at least ln(1 / alpha).
    """
    s, total, p = broadcast(successes, n, p0)
    failures = total - s
    # Far above S/n the mass beyond p0 underflows: the evidence is then minus infinity, as it should be.
    with np.errstate(divide="ignore"):
        mass = np.log(betaincc(_A + s, _B + failures, p)) - np.log(_prior_mass(p))
    return betaln(_A + s, _B + failures) - _LOG_BETA + mass - xlogy(s, p) - xlog1py(failures, -p)


def mixture_lower(successes: ArrayLike, n: ArrayLike, alpha: ArrayLike) -> FloatArray:
    """Lower confidence sequence: P(L_n <= p for every n at once) >= 1 - alpha.

    L_n = inf { p0 : M_n(p0) < 1 / alpha }, found by Newton's method in p0, kept between bounds on the root: ln M_n is
    convex and falling below S/n, so 3 or 4 steps are enough.

    Args:
        successes: votes for the class, 0..n.
        n: votes in all, at least 1.
        alpha: failure probability in (0, 1).

    Returns:
        L_n in [0, 1), 0 where S = 0; grows with S.
    """
    s, total, level = broadcast(successes, n, alpha)
    votes = np.maximum(s, 1.0)  # S = 0 proves nothing; 1 stands in for it and is replaced
    goal = -np.log(level)
    low, high = np.zeros_like(votes), np.minimum(votes / total, LARGEST_P)
    # The mixture pays about a factor sqrt(n) over a single look, which puts this start just left of the root.
    p = np.minimum(clopper_pearson_lower(votes, total, level / (4.0 * np.sqrt(total))), high)
    settled = np.zeros(p.shape, np.bool_)
    for _ in range(_MAX_STEPS):
        excess = log_mixture(votes, total, p) - goal
        low, high = np.where(excess >= 0.0, p, low), np.where(excess < 0.0, p, high)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            following = p + excess / _descent(votes, total, p)
        inside = (following >= low) & (following <= high)
        following = np.where(inside, following, 0.5 * (low + high))
        # What has settled stays: a bound must not depend on which others are computed along with it.
        # Relative 1e-9 is far below the sixth digit of a radius.
        near = np.abs(following - p) <= 1e-9 * np.minimum(p, 1.0 - p) + 1e-16
        p = np.where(settled, p, following)
        settled |= near
        if np.all(settled):
            break
    return np.where(s == 0.0, 0.0, np.minimum(np.where(settled, p, low), LARGEST_P))


def mixture_upper(successes: ArrayLike, n: ArrayLike, alpha: ArrayLike) -> FloatArray:
    """Upper confidence sequence: P(U_n >= p for every n at once) >= 1 - alpha.

    The lower sequence of the other classes taken together, mirrored. Arguments as for `mixture_lower`.

    Returns:
        U_n in (0, 1], 1 where S = n; grows with S.
    """
    s, total, level = broadcast(successes, n, alpha)
    return 1.0 - mixture_lower(total - s, total, level)


def _descent(s: FloatArray, n: FloatArray, p: FloatArray) -> FloatArray:
    """-d/dp ln M_n(p), without the density of the posterior at p, which is small left of S/n."""
    return s / p - (n - s) / (1.0 - p) - 1.0 / (np.pi * np.sqrt(p * (1.0 - p)) * _prior_mass(p))


def _prior_mass(p: FloatArray) -> FloatArray:
    """P(Beta(1/2, 1/2) > p), the arcsine law."""
    return 2.0 / np.pi * np.arcsin(np.sqrt(1.0 - p))
