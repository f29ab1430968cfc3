"""The exact binomial interval (Clopper & Pearson 1934) in pure Python, so that a plot needs no scipy.

The ends are quantiles of the beta distribution, found by bisection on the regularised incomplete beta
function I_x(a, b), which is evaluated by its continued fraction (Abramowitz & Stegun 26.5.8) with the
modified Lentz algorithm (Thompson & Barnett 1986).
"""

import math
from functools import lru_cache

TINY = 1e-300
"""Stands for 0 in a denominator. Chosen, as Lentz asks: far below any term, and its inverse is finite."""

PRECISION = 1e-15
"""Of the continued fraction, relative. Chosen: a few units of a double's last place (2.2e-16)."""

QUANTILE_PRECISION = 1e-12
"""Of the interval's ends, relative. Chosen: rounding in the logarithms of gamma functions allows little more."""

MOST_TERMS = 20_000
"""Chosen: twenty times the 900 terms that the slowest interval of 10 million votes takes, that of one half."""


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The ends, in [0, 1], of the two-sided exact interval of a proportion: it holds the truth with `confidence`.

    Raises:
        ValueError: not 0 <= successes <= trials, trials >= 1 and 0 < confidence < 1.
    """
    if not 0 <= successes <= trials or trials < 1 or not 0 < confidence < 1:
        raise ValueError("0 <= successes <= trials, trials >= 1 and 0 < confidence < 1 are required.")
    tail = (1 - confidence) / 2
    return lower_bound(successes, trials, tail), 1 - lower_bound(trials - successes, trials, tail)


@lru_cache(maxsize=65_536)
def lower_bound(successes: int, trials: int, alpha: float) -> float:
    """The one-sided lower end of a proportion: it is below the truth with probability at least 1 - `alpha`."""
    return 0.0 if successes == 0 else _beta_quantile(alpha, successes, trials - successes + 1)


def beta_cdf(x: float, a: float, b: float) -> float:
    """I_x(a, b): the distribution function of Beta(a, b) at x in [0, 1]."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    # The fraction converges fast below the mean; above it, I_x(a, b) = 1 - I_{1-x}(b, a).
    if x < (a + 1) / (a + b + 2):
        return math.exp(log_front) * _fraction(x, a, b) / a
    return 1 - math.exp(log_front) * _fraction(1 - x, b, a) / b


def _beta_quantile(probability: float, a: float, b: float) -> float:
    low, high = 0.0, 1.0
    while high - low > QUANTILE_PRECISION * high:
        middle = (low + high) / 2
        if beta_cdf(middle, a, b) < probability:
            low = middle
        else:
            high = middle
    return low


def _fraction(x: float, a: float, b: float) -> float:
    c, d = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, MOST_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        step = 1.0
        for term in (even, odd):
            d = 1 / _not_zero(1 + term * d)
            c = _not_zero(1 + term / c)
            step = c * d
            value *= step
        if abs(step - 1) < PRECISION:
            return value
    raise ArithmeticError(f"I_{x}({a}, {b}) did not converge in {MOST_TERMS} terms.")


def _not_zero(value: float) -> float:
    return value if abs(value) > TINY else TINY
