"""Promise: asking whether a radius holds costs the noises that the method's table says, within 10 %."""

import numpy as np
import pytest
from scipy.special import ndtr

from spacte_workers.bench.samples import CASES, simulate, stage_cost
from spacte_workers.statistics.stopping import Plan, Rules

pytestmark = pytest.mark.slow

OURS = (145, 1_294, 16_551, 4_434, 4_441, 10_604, 6_258)
MIXTURE = (141, 1_449, 21_764, 4_175, 4_713, 12_166, 6_700)
STAGES = (1_100, 4_022, 81_502, 10_177, 10_672, 62_090, 11_200)


@pytest.mark.parametrize(("version", "rel", "figures"), [(1, 0.10, MIXTURE), (2, 0.03, OURS)])
@pytest.mark.parametrize("i", range(len(CASES)))
def test_mean_samples(i, version, rel, figures):
    """By the mixture sequence, in version 1, and by the boundaries of the target."""
    target, true = CASES[i]
    p = float(ndtr(true))
    plan = Plan(Rules(1.0, 100_000, 0.001, "clopper_pearson", 2, target_radius=target, version=version))
    stops = simulate(plan, [p, 1 - p], 20_000, np.random.default_rng(17))
    assert 100 + stops.n.mean() == pytest.approx(figures[i], rel=rel)
    # What is decided is the truth but for errors much rarer than alpha.
    assert np.mean(stops.code == (1 if true >= target else 2)) > 0.995 or (target, true) == (1.0, 1.05)


@pytest.mark.parametrize(("case", "expected"), list(zip(CASES, STAGES, strict=True)))
def test_mean_samples_of_the_published_stages(case, expected):
    """The comparison is with the stages as published: simulated there, summed exactly here."""
    target, true = case
    assert stage_cost(target, float(ndtr(true)), 0.001, 100) == pytest.approx(expected, rel=0.01)
