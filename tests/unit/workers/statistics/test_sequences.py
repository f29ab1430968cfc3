"""Promise: the confidence sequence is the Beta mixture's, exactly, and a bound at every look."""

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacte_workers.statistics.bounds import LARGEST_P, clopper_pearson_lower, radius
from spacte_workers.statistics.sequences import log_mixture, mixture_lower, mixture_upper

LEVELS = st.floats(1e-9, 0.5)


@st.composite
def votes(draw, most=10**9):
    n = draw(st.integers(1, most))
    s = draw(st.one_of(st.integers(0, n), st.sampled_from([0, 1, n - 1, n])))
    return min(max(s, 0), n), n


def survival(p, a, b):
    """P(Beta(a, b) > p) by quadrature at 30 digits."""
    mean, sd = a / (a + b), mpmath.sqrt(a * b / (a + b + 1)) / (a + b)
    marks = sorted({p, mpmath.mpf(1), *(min(max(mean + k * sd, p), mpmath.mpf(1)) for k in range(-40, 41, 4))})
    constant = mpmath.loggamma(a + b) - mpmath.loggamma(a) - mpmath.loggamma(b)

    def density(q):
        return mpmath.exp(constant + (a - 1) * mpmath.log(q) + (b - 1) * mpmath.log(1 - q)) if q < 1 else 0

    return mpmath.quad(density, marks)


def oracle(s, n, p):
    """ln M_n(p) straight from its definition, with 30 digits."""
    with mpmath.workdps(30):
        half, p = mpmath.mpf(1) / 2, mpmath.mpf(p)
        a, b = half + s, half + n - s
        beta = mpmath.loggamma(a) + mpmath.loggamma(b) - mpmath.loggamma(a + b) - mpmath.log(mpmath.pi)
        prior = 2 / mpmath.pi * mpmath.asin(mpmath.sqrt(1 - p))
        return (
            beta + mpmath.log(survival(p, a, b)) - mpmath.log(prior) - s * mpmath.log(p) - (n - s) * mpmath.log(1 - p)
        )


@pytest.mark.parametrize(
    ("p", "n", "fixed", "sequence"),
    [
        (0.6, 10**3, 0.128, 0.076),
        (0.6, 10**4, 0.214, 0.194),
        (0.6, 10**5, 0.2409, 0.2337),
        (0.99, 10**3, 1.978, 1.900),
        (0.99, 10**4, 2.212, 2.173),
        (0.99, 10**5, 2.2900, 2.2738),
        (1.0, 10**3, 2.463, 2.407),
        (1.0, 10**4, 3.199, 3.153),
        (1.0, 10**5, 3.8115, 3.7728),
    ],
)
def test_check_values(p, n, fixed, sequence):
    s = round(p * n)
    assert float(radius(clopper_pearson_lower(s, n, 0.001), 1.0)) == pytest.approx(fixed, abs=1e-3)
    assert float(radius(mixture_lower(s, n, 0.001), 1.0)) == pytest.approx(sequence, abs=1e-3)


def test_the_one_sided_prior_matters():
    """Without the restriction to q > p0 the radius at S = n = 100,000 would be 3.648 only."""
    assert float(radius(mixture_lower(10**5, 10**5, 0.001), 1.0)) == pytest.approx(3.773, abs=5e-4)


@given(votes(10**6), st.floats(0.001, 0.999))
@settings(max_examples=10, deadline=None)
def test_evidence_equal_to_its_definition(sn, p):
    s, n = sn
    if s < n * p - 5 * (n * p * (1 - p)) ** 0.5:
        p = max(s, 0.5) / n / 2  # far above S/n the evidence is minus infinity in doubles
    assert float(log_mixture(s, n, p)) == pytest.approx(float(oracle(s, n, p)), rel=1e-9, abs=1e-7)


@given(votes(), LEVELS)
@settings(max_examples=10, deadline=None)
def test_bound_is_where_the_evidence_reaches_its_threshold(sn, alpha):
    """Within 1e-9 of L_n, ln M_n at 30 digits crosses ln 1/alpha."""
    s, n = sn
    lower, threshold = float(mixture_lower(s, n, alpha)), -mpmath.log(alpha)
    if s == 0:
        assert lower == 0.0
        return
    below, above = lower - min(1e-9, lower / 2), min(lower + 1e-9, s / n, LARGEST_P)
    assert oracle(s, n, below) >= threshold
    assert oracle(s, n, above) <= threshold


@given(votes(), st.floats(1e-300, 1, exclude_max=True))
@settings(max_examples=200, deadline=None)
def test_never_nan_and_always_in_order(sn, alpha):
    s, n = sn
    lower, upper = float(mixture_lower(s, n, alpha)), float(mixture_upper(s, n, alpha))
    assert 0.0 <= lower <= s / n <= upper <= 1.0
    assert lower < 1.0
    assert upper == pytest.approx(1.0 - float(mixture_lower(n - s, n, alpha)), abs=0.0)


@given(st.integers(1, 10**9), LEVELS)
@settings(max_examples=50, deadline=None)
def test_monotone_in_the_votes(n, alpha):
    spread = np.unique(np.linspace(0, n, 100).astype(np.int64))
    near = np.unique(np.clip(np.arange(-5, 6) + n // 2, 0, n))
    for s in (spread, near):
        assert np.all(np.diff(mixture_lower(s, n, alpha)) >= 0)


@given(votes(), LEVELS)
@settings(max_examples=100, deadline=None)
def test_no_better_than_a_single_look(sn, alpha):
    """What holds at every n cannot beat the best bound for this n."""
    s, n = sn
    assert float(mixture_lower(s, n, alpha)) <= float(clopper_pearson_lower(s, n, alpha)) + 1e-12


@given(votes(10**7), LEVELS)
@settings(max_examples=50, deadline=None)
def test_everything_below_the_bound_is_rejected(sn, alpha):
    """L_n is the infimum of what is not rejected: there is no hole below it."""
    s, n = sn
    if s == 0:
        return
    lower = float(mixture_lower(s, n, alpha))
    below = lower * np.linspace(0.001, 1, 200, endpoint=False)
    assert np.all(log_mixture(s, n, below) >= -np.log(alpha) - 1e-6)
    beyond = lower + (min(s / n, LARGEST_P) - lower) * np.linspace(0, 1, 200)[1:]
    assert np.all(log_mixture(s, n, np.minimum(beyond, LARGEST_P)) <= -np.log(alpha) + 1e-6)


def test_a_bound_does_not_depend_on_its_company():
    """Alone or among others it is the same to the last bit, so that outcomes do not depend on timing."""
    rng = np.random.default_rng(0)
    n = rng.integers(1, 10**6, 500)
    s = rng.binomial(n, rng.beta(0.5, 0.5, 500))
    together = mixture_lower(s, n, 0.0005)
    assert all(float(mixture_lower(s[i], n[i], 0.0005)) == together[i] for i in range(500))
