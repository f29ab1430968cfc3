"""Promise: what a test set shows comes with the interval that its size allows."""

import pytest
from scipy.stats import binom
from statsmodels.stats.proportion import proportion_confint

from spacte_workers.statistics.metrics import average_certified_radius, certified_accuracy, most_false

CORRECT = [True, True, True, False, True]
RADII = [0.5, 0.25, 0.0, 0.9, 0.75]


def test_certified_accuracy_counts_correct_answers_with_the_radius():
    points = certified_accuracy(CORRECT, RADII, [0.0, 0.25, 0.250001, 0.75, 0.9])
    assert [point.value for point in points] == [0.8, 0.6, 0.4, 0.2, 0.0]
    assert [point.radius for point in points] == [0.0, 0.25, 0.250001, 0.75, 0.9]


def test_the_interval_is_the_exact_binomial_one():
    (point,) = certified_accuracy([True] * 300 + [False] * 200, [1.0] * 500, [0.5])
    low, high = proportion_confint(300, 500, alpha=0.05, method="beta")
    assert (point.low, point.high) == (pytest.approx(low), pytest.approx(high))
    assert (high - low) / 2 == pytest.approx(0.043, abs=1e-3)  # 4.3 points at 60 % of 500


def test_acr_is_the_mean_of_correct_times_radius():
    assert average_certified_radius(CORRECT, RADII) == pytest.approx((0.5 + 0.25 + 0.75) / 5)


def test_without_images_there_is_nothing_to_say():
    with pytest.raises(ValueError, match="at least one image"):
        certified_accuracy([], [], [0.5])
    with pytest.raises(ValueError, match="at least one image"):
        average_certified_radius([], [])


@pytest.mark.parametrize(("images", "most"), [(500, 4), (10_000, 21), (1, 0), (0, 0)])
def test_joint_claim(images, most):
    """With probability .999, of so many certificates at alpha = .001, at most so many are false."""
    assert most_false(images, 0.001, 0.001) == most
    assert binom.sf(most, images, 0.001) <= 0.001
    assert most == 0 or binom.sf(most - 1, images, 0.001) > 0.001
