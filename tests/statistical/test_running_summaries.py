"""Promise: the joint statement about an unfinished job is true as often as it says, though false ones finish first."""

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import binomtest

from spacte_workers.batch.summary import summarize
from spacte_workers.bench.samples import simulate
from spacte_workers.statistics.metrics import most_false
from spacte_workers.statistics.stopping import Plan, Rules

pytestmark = [pytest.mark.long, pytest.mark.slow]

JOBS, IN_FLIGHT, FINISHED, ALPHA = 4_000, 256, 4, 0.01


def test_four_finished_of_those_in_flight():
    """Every target lies just beyond the true radius, so that whatever shows it is false, and is over early."""
    plan, p = Plan(Rules(1.0, 1_000, ALPHA, "clopper_pearson", 2, target_radius=1.0)), float(ndtr(1.0 - 1e-6))
    stops = simulate(plan, [p, 1 - p], JOBS * IN_FLIGHT, np.random.default_rng(41))
    noises, radius = stops.n.reshape(JOBS, IN_FLIGHT), stops.radius.reshape(JOBS, IN_FLIGHT)
    first = np.argsort(noises, axis=1, kind="stable")[:, :FINISHED]
    false = (np.take_along_axis(radius, first, axis=1) > 1.0 - 1e-6).sum(axis=1)
    record = {"outcome": "certified", "abstained": False, "sigma": 1.0, "alpha": ALPHA, "correct": None}
    summary = summarize([record | {"begun": IN_FLIGHT}] * FINISHED)
    assert (summary.images, summary.begun) == (FINISHED, IN_FLIGHT)
    violated = int((false > summary.max_false).sum())
    assert binomtest(violated, JOBS, summary.rho, alternative="greater").pvalue > 1e-3
    # As if those finished were all there are, the statement breaks far too often.
    assert binomtest(int((false > most_false(FINISHED, ALPHA, ALPHA)).sum()), JOBS, ALPHA).pvalue < 1e-6
