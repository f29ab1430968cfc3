"""Promise: boundaries of a target spend exactly what they may, and not a vote more could be asked for less."""

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import binom

from spacte_workers.statistics.stopping import Plan, Rules, look_schedule
from spacte_workers.statistics.target_boundaries import SPENDING_POWER, TargetBoundaries


def ever_reached(p, looks, boundaries):
    """Probability of reaching a boundary by each look: all paths, no cutting, no transform."""
    mass, before, reached, by_look = np.ones(1), 0, 0.0, []
    for n, boundary in zip(looks, boundaries, strict=True):
        mass = np.convolve(mass, binom.pmf(np.arange(n - before + 1), n - before, p))
        reached += mass[boundary:].sum()
        mass[boundary:] = 0.0
        before = n
        by_look.append(reached)
    return by_look


@pytest.mark.parametrize("p0", [0.05, 0.6, 0.9772, 0.99999])
def test_what_is_spent_is_what_was_said_and_no_lower_boundary_would_do(p0):
    looks, level = look_schedule(600), 0.01
    boundaries = TargetBoundaries(p0, looks, level)
    votes = [boundaries.votes(k) for k in range(len(looks) - 1)]
    reached = ever_reached(p0, looks[:-1], votes)
    assert reached[-1] == pytest.approx(boundaries.spent, rel=1e-9, abs=1e-15)
    for k, n in enumerate(looks[:-1]):
        allowed = level * (n / looks[-1]) ** SPENDING_POWER
        assert reached[k] <= allowed * (1 + 1e-12)
        lower = [*votes[:k], votes[k] - 1]
        assert ever_reached(p0, looks[: k + 1], lower)[-1] > allowed
    assert boundaries.votes(len(looks) - 1) == 601


def test_looks_far_out_by_the_fourier_transform():
    looks, level = look_schedule(3_000_000), 8e-4
    boundaries = TargetBoundaries(0.84, looks, level)
    last = boundaries.votes(len(looks) - 2)
    assert boundaries.spent == pytest.approx(level * (looks[-2] / looks[-1]) ** SPENDING_POWER, rel=1e-2)
    assert 3.0 < (last - 0.84 * looks[-2]) / np.sqrt(0.84 * 0.16 * looks[-2]) < 4.5


def test_the_target_is_the_radius_that_is_shown():
    plan = Plan(Rules(0.5, 10_000, 0.001, "clopper_pearson", 10, target_radius=0.4))
    boundaries = TargetBoundaries(float(ndtr(0.8)), plan.looks, 0.0008)
    for look in (3, 10, 30):
        n, votes = plan.looks[look], boundaries.votes(look)
        assert plan.first_stop(look, [votes], [0]) == (look, "target")
        assert plan.proven(look, votes, 0).radius == 0.4
        assert plan.proven(look, n, 0).radius >= 0.4
        before = plan.first_stop(look, [votes - 1], [0])
        assert before is None
        assert plan.proven(look, votes - 1, 0).radius < 0.4


@pytest.mark.parametrize("rule", [{"tolerance": 0.01}, {"deadline": True}, {"bound": "two_class"}, {"alpha": 1e-12}])
def test_beside_another_rule_the_sequence_decides(rule):
    settings = {"sigma": 0.5, "n_max": 10_000, "alpha": 0.001, "bound": "clopper_pearson", "num_classes": 10}
    assert not Rules(**{**settings, "target_radius": 0.4, **rule}).spends_exactly
