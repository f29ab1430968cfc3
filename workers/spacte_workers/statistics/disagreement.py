"""A bound for a changed classifier from the votes of the old one (Ugare et al. 2024, incremental smoothing).

Let f be the old classifier, f' the new one, A the class certified for f, and under noise p = P(f = A) and
zeta = P(f = A, f' != A). Then P(f' = A) >= p - zeta. Both vote on the same noises, and they rarely differ, so zeta
takes few of them.
"""

import numpy as np
from numpy.typing import ArrayLike

from .bounds import FloatArray, clopper_pearson_lower, clopper_pearson_upper


def carried_lower(
    successes: ArrayLike, n: ArrayLike, differences: ArrayLike, pairs: ArrayLike, alpha: float, noise_error: float = 0.0
) -> FloatArray:
    """Lower confidence bound on P(f' = A): P(bound <= P(f' = A)) >= 1 - alpha.

    Half of alpha goes to each of the two Clopper-Pearson bounds, whose failures add up at most (union bound). Votes and
    pairs need not be independent of each other.

    Args:
        successes, n: votes of f for A, out of all, at a number of noises that was fixed beforehand.
        differences, pairs: noises on which f votes for A and f' does not, out of all, likewise.
        alpha: failure probability in (0, 1).
        noise_error: total variation between the noise as drawn and the Gaussian, taken off.

    Returns:
        The bound, in [0, 1).
    """
    lower = clopper_pearson_lower(successes, n, alpha / 2)
    return np.maximum(lower - clopper_pearson_upper(differences, pairs, alpha / 2) - noise_error, 0.0)
