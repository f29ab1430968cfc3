"""Promise: the fixed-n bounds are the exact ones for any counts, and their radius is never too large."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri
from statsmodels.stats.proportion import proportion_confint

from spacte_workers.statistics.bounds import clopper_pearson_lower, clopper_pearson_upper, radius, two_class_radius

LEVELS = st.floats(1e-9, 0.5)


@st.composite
def votes(draw, most=10**9):
    """(S, n), with the ends of the range well represented."""
    n = draw(st.integers(1, most))
    s = draw(st.one_of(st.integers(0, n), st.sampled_from([0, 1, n - 1, n])))
    return min(max(s, 0), n), n


def beta_mass(low, high, a, b):
    """P(low < Beta(a, b) < high) by quadrature at 30 digits, for any a and b of 1/2 and more."""
    with mpmath.workdps(30):
        a, b = mpmath.mpf(a), mpmath.mpf(b)
        constant = mpmath.loggamma(a + b) - mpmath.loggamma(a) - mpmath.loggamma(b)
        mean, sd = a / (a + b), mpmath.sqrt(a * b / (a + b + 1)) / (a + b)
        marks = sorted({low, high, *(min(max(mean + k * sd, low), high) for k in range(-32, 33, 4))})

        def density(q):
            return mpmath.exp(constant + (a - 1) * mpmath.log(q) + (b - 1) * mpmath.log(1 - q)) if 0 < q < 1 else 0

        return mpmath.quad(density, [mpmath.mpf(mark) for mark in marks])


def test_the_check_values_of_the_field():
    """n = 100,000, alpha = .001, all votes for one class: 3.81146 sigma."""
    assert float(radius(clopper_pearson_lower(100_000, 100_000, 0.001), 1.0)) == pytest.approx(3.81146, abs=1e-5)
    for p, n, expected in [(0.6, 10**3, 0.128), (0.6, 10**4, 0.214), (0.6, 10**5, 0.2409), (0.99, 10**3, 1.978)]:
        assert float(radius(clopper_pearson_lower(p * n, n, 0.001), 1.0)) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("p_a", "p_b", "one", "two"), [(0.9, 0.05, 1.265, 1.443), (0.6, 0.2, 0.241, 0.533), (0.45, 0.2, 0.0, 0.344)]
)
def test_the_two_class_bound_certifies_more(p_a, p_b, one, two):
    n, alpha = 100_000, 0.001
    single = radius(clopper_pearson_lower(p_a * n, n, alpha), 1.0)
    double = two_class_radius(
        clopper_pearson_lower(p_a * n, n, alpha / 2), clopper_pearson_upper(p_b * n, n, alpha / 2), 1.0
    )
    assert float(single) == pytest.approx(one, abs=1e-3)
    assert float(double) == pytest.approx(two, abs=1e-3)


@given(votes(), LEVELS)
@settings(max_examples=200, deadline=None)
def test_equal_to_statsmodels(sn, alpha):
    s, n = sn
    low, high = proportion_confint(s, n, alpha=2 * alpha, method="beta")
    assert float(clopper_pearson_lower(s, n, alpha)) == pytest.approx(float(np.nan_to_num(low)), abs=1e-9)
    assert float(clopper_pearson_upper(s, n, alpha)) == pytest.approx(float(np.nan_to_num(high, nan=1.0)), abs=1e-9)


@given(votes(), LEVELS)
@settings(max_examples=10, deadline=None)
def test_equal_to_quadrature_at_thirty_digits(sn, alpha):
    """The beta distribution's mass below L is alpha: within 1e-9 of L it crosses it."""
    s, n = sn
    for bound, a, b, mass in (
        (float(clopper_pearson_lower(s, n, alpha)), s, n - s + 1, alpha),
        (1.0 - float(clopper_pearson_upper(s, n, alpha)), n - s, s + 1, alpha),
    ):
        if a == 0:
            assert bound == pytest.approx(0.0, abs=1e-9)
            continue
        step = 1e-9
        assert beta_mass(0, max(bound - step, 0), a, b) <= mass * (1 + 1e-9)
        assert beta_mass(0, min(bound + step, 1), a, b) >= mass * (1 - 1e-9)


@given(votes(), st.floats(1e-300, 1, exclude_max=True), st.floats(0.01, 10))
@settings(max_examples=200, deadline=None)
def test_never_nan_nor_infinite(sn, alpha, sigma):
    s, n = sn
    low, high = clopper_pearson_lower(s, n, alpha), clopper_pearson_upper(s, n, alpha)
    assert 0.0 <= low < 1.0
    assert 0.0 < high <= 1.0
    assert 0.0 <= float(radius(low, sigma)) < 9 * sigma
    assert 0.0 <= float(two_class_radius(low, high, sigma)) < 9 * sigma


@given(st.integers(1, 10**9), LEVELS)
@settings(max_examples=50, deadline=None)
def test_monotone_in_the_votes(n, alpha):
    s = np.unique(np.linspace(0, n, 200).astype(np.int64))
    near = np.unique(np.clip(np.arange(-5, 6) + n // 2, 0, n))
    for tested in (s, near):
        assert np.all(np.diff(clopper_pearson_lower(tested, n, alpha)) >= 0)
        assert np.all(np.diff(clopper_pearson_upper(tested, n, alpha)) >= 0)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 4))
def test_the_runner_up_bound_never_takes_away(p_a, p_b, sigma):
    """pB is at most 1 - pA, so at one and the same pA two classes certify at least what one does."""
    assert two_class_radius(p_a, p_b, sigma) >= radius(p_a, sigma) - 1e-12


def test_no_radius_below_one_half():
    assert float(radius(0.499999, 1.0)) == 0.0
    assert float(radius(float(ndtr_of(0.1)), 2.0)) == pytest.approx(0.2)


def ndtr_of(z):
    return 0.5 * math.erfc(-z / math.sqrt(2))


def test_arrays_broadcast_like_numbers():
    s, n = np.array([[1], [5]]), np.array([5, 10, 20])
    expected = [[float(clopper_pearson_lower(a, b, 0.01)) for b in (5, 10, 20)] for a in (1, 5)]
    assert np.array_equal(clopper_pearson_lower(s, n, 0.01), expected)
    assert float(ndtri(0.5)) == 0.0
