"""Promise: thresholds, warm-up and learning rates are those of METHODS 3.1 and 10."""

import math
from itertools import pairwise

import pytest

from spacte_trainer.schedules import StepSchedule, threshold, warmup


@pytest.mark.parametrize(("classes", "last"), [(10, 1.2), (10, 0.8), (4, 2.0), (1000, 40.0)])
def test_threshold_runs_from_the_uniform_guess_to_its_last_value(classes: int, last: float) -> None:
    assert threshold(1, 150, classes, last) == pytest.approx(math.log(classes), rel=1e-14)
    assert threshold(150, 150, classes, last) == pytest.approx(last, rel=1e-14)
    steps = [threshold(t, 150, classes, last) for t in range(1, 151)]
    falling = last < math.log(classes)
    assert steps == sorted(steps, reverse=falling)


def test_threshold_is_linear_in_powers_of_ten() -> None:
    powers = [10 ** -threshold(t, 5, 10, 1.2) for t in range(1, 6)]
    gaps = [later - earlier for earlier, later in pairwise(powers)]
    assert gaps == pytest.approx([gaps[0]] * 4)


def test_threshold_needs_two_epochs() -> None:
    with pytest.raises(ValueError, match="at least two"):
        threshold(1, 1, 10, 1.2)


def test_warmup_grows_to_one() -> None:
    assert [warmup(t, 10) for t in (1, 5, 10, 11)] == [0.1, 0.5, 1.0, 1.0]
    assert warmup(1, 0) == 1.0


def test_learning_rate_drops_after_the_named_epochs() -> None:
    rates = [0.1 * StepSchedule(drops_after=(50, 100)).scale(t, 150, 0.0) for t in (1, 50, 51, 100, 101, 150)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
