"""The bound and the radius: exact binomial confidence bounds and what they certify.

Of `n` independent votes, `successes` went to a class whose probability is p. Every function takes numbers or arrays
that broadcast, and returns float64 of the broadcast shape. Nothing here returns NaN for 0 <= successes <= n, n >= 1 and
0 < alpha < 1.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainccinv, betaincinv, ndtri  # pyright: ignore[reportMissingTypeStubs]

FloatArray = NDArray[np.float64]

LARGEST_P = float(np.nextafter(1.0, 0.0))
"""A lower bound is at most this, the largest double below 1, so that no radius is infinite."""


def broadcast(*values: ArrayLike) -> tuple[FloatArray, ...]:
    """Numbers or arrays as float64 arrays of one shape."""
    return tuple(np.broadcast_arrays(*(np.asarray(value, np.float64) for value in values)))


def clopper_pearson_lower(successes: ArrayLike, n: ArrayLike, alpha: ArrayLike) -> FloatArray:
    """Lower confidence bound L on p, one-sided: P(L <= p) >= 1 - alpha (Clopper & Pearson 1934).

    L = BetaInv(alpha; S, n - S + 1); 0 where S = 0.

    Args:
        successes: votes for the class, 0..n.
        n: votes in all, at least 1.
        alpha: failure probability in (0, 1).

    Returns:
        L in [0, 1).
    """
    s, total, level = broadcast(successes, n, alpha)
    # S = 0 is outside betaincinv's domain; 1 stands in for it and is replaced.
    # Below alpha = 1e-100 SciPy may find no root; 0 is a bound then, too.
    inverse = np.nan_to_num(betaincinv(np.maximum(s, 1.0), total - s + 1.0, level), nan=0.0)
    # At S = n the closed form alpha^(1/n) loses no digits.
    lower = np.where(s == total, np.exp(np.log(level) / total), inverse)
    return np.where(s == 0.0, 0.0, np.minimum(lower, LARGEST_P))


def clopper_pearson_upper(successes: ArrayLike, n: ArrayLike, alpha: ArrayLike) -> FloatArray:
    """Upper confidence bound U on p, one-sided: P(U >= p) >= 1 - alpha (Clopper & Pearson 1934).

    U = BetaInv(1 - alpha; S + 1, n - S); 1 where S = n. Arguments as for `clopper_pearson_lower`.

    Returns:
        U in (0, 1].
    """
    s, total, level = broadcast(successes, n, alpha)
    # The complemented inverse takes alpha itself: 1 - alpha would lose its digits.
    inverse = np.nan_to_num(betainccinv(s + 1.0, np.maximum(total - s, 1.0), level), nan=1.0)
    upper = np.where(s == 0.0, -np.expm1(np.log(level) / total), inverse)
    return np.where(s == total, 1.0, np.maximum(upper, 1.0 - LARGEST_P))


def radius(p_lower: ArrayLike, sigma: float) -> FloatArray:
    """L2 radius certified by a lower bound on the top class alone: sigma * Phi^-1(L), or 0 where L < 1/2.

    Cohen et al. 2019, section 3.2.2.

    Args:
        p_lower: lower bound on the probability of the class, in [0, 1].
        sigma: noise sd in units of [0, 1] pixels.

    Returns:
        Radius in the same units, finite and not negative.
    """
    p = np.clip(np.asarray(p_lower, np.float64), 0.5, LARGEST_P)
    return sigma * ndtri(p)


def two_class_radius(p_lower: ArrayLike, runner_up_upper: ArrayLike, sigma: float) -> FloatArray:
    """L2 radius certified by bounds on the top class and on every other: Cohen et al. 2019, theorem 1.

    R = sigma / 2 * (Phi^-1(pA) - Phi^-1(pB)) with pB = min(upper bound, 1 - pA), or 0 where that is negative.

    Args:
        p_lower: lower bound pA on the probability of the class, in [0, 1].
        runner_up_upper: upper bound on the probability of each of the other classes, in [0, 1].
        sigma: noise sd in units of [0, 1] pixels.

    Returns:
        Radius in the same units, finite and not negative.
    """
    smallest = 1.0 - LARGEST_P
    p_a = np.clip(np.asarray(p_lower, np.float64), smallest, LARGEST_P)
    p_b = np.clip(np.minimum(np.asarray(runner_up_upper, np.float64), 1.0 - p_a), smallest, LARGEST_P)
    return np.maximum(sigma / 2.0 * (ndtri(p_a) - ndtri(p_b)), 0.0)
