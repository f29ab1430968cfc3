"""Promise: however drawing is stopped, a certificate is false with probability at most alpha.

The true probabilities are known, so a certificate is false exactly where its radius is above the true one.
Each case is simulated 20,000 times at alpha = .01 on the code that decides in production, and the number of
false certificates is compared with alpha by an exact binomial test at 1 in 1,000. The cases are those that
tempt: a true radius just below the target, stopping at the look that flatters most.
"""

import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import binomtest

from spacte_workers.bench.samples import Stops, simulate
from spacte_workers.statistics.sequences import log_mixture
from spacte_workers.statistics.stopping import Plan, Rules
from spacte_workers.statistics.top_class import predict_looks, top_class_test

pytestmark = [pytest.mark.long, pytest.mark.slow]

RUNS, ALPHA, N_MAX = 20_000, 0.01, 2_000
TWO = [0.62, 0.2, 0.18]  # R/sigma: .305 by the top class alone, .573 with the runner-up
ONE = [0.8, 0.2]


def true_radius(probabilities, bound):
    top, second = probabilities[0], max(probabilities[1:])
    return float(ndtri(top)) if bound == "clopper_pearson" else float(ndtri(top) - ndtri(second)) / 2


def not_above(false, alpha=ALPHA, runs=RUNS):
    """No evidence at 1 in 1,000 that errors are more frequent than alpha."""
    return binomtest(int(false), runs, alpha, alternative="greater").pvalue > 1e-3


def false(stops: Stops, radius):
    return np.count_nonzero(stops.radius > radius + 1e-12)


@pytest.mark.parametrize("bound", ["clopper_pearson", "two_class"])
@pytest.mark.parametrize("probabilities", [ONE, TWO])
@pytest.mark.parametrize("rule", ["none", "target", "tolerance", "deadline", "target and tolerance"])
def test_false_certificates_are_rare_enough(bound, probabilities, rule):
    radius = true_radius(probabilities, bound)
    rules = {}
    if "target" in rule:
        rules["target_radius"] = radius + 1e-4  # just out of reach
    if "tolerance" in rule:
        rules["tolerance"] = 0.3
    rng = np.random.default_rng(23)
    plan = Plan(Rules(1.0, N_MAX, ALPHA, bound, len(probabilities), deadline=rule == "deadline", **rules))
    cut = rng.integers(0, len(plan.looks), RUNS) if rule == "deadline" else None
    stops = simulate(plan, probabilities, RUNS, rng, cut_after=cut)
    assert not_above(false(stops, radius))
    if rule == "none" and bound == "clopper_pearson":
        # The bound is not merely valid but sharp: it errs nearly as often as it may.
        assert false(stops, radius) > 0.5 * ALPHA * RUNS
    if rule == "target":
        assert not_above(np.count_nonzero(stops.code == 1))


@pytest.mark.parametrize("bound", ["clopper_pearson", "two_class"])
def test_stopping_at_the_look_that_flatters_most_is_still_valid(bound):
    """The best bound over all looks, which no rule stops at knowingly, is false at most in alpha of the runs."""
    plan = Plan(Rules(1.0, N_MAX, ALPHA, bound, 3, deadline=True))
    rng, best, counts, drawn = np.random.default_rng(3), np.zeros(RUNS), np.zeros((RUNS, 3), int), 0
    for n in plan.looks:
        counts += rng.multinomial(n - drawn, TWO, size=RUNS)
        drawn = n
        states, which = np.unique(
            np.stack((counts[:, 0], counts[:, 1:].max(axis=1)), axis=1), axis=0, return_inverse=True
        )
        proof = plan.prove(n, states[:, 0], states[:, 1], final=n == N_MAX)
        best = np.maximum(best, np.where(proof.certified, proof.radius, 0.0)[which.reshape(-1)])
    assert not_above(np.count_nonzero(best > true_radius(TWO, bound) + 1e-12))


def test_looking_often_at_a_fixed_n_bound_would_not_be_valid():
    """The check can fail: the same peeking with a Clopper-Pearson bound errs several times too often."""
    fixed = Plan(Rules(1.0, N_MAX, ALPHA, "clopper_pearson", 2))
    rng, worst, s, drawn = np.random.default_rng(3), np.zeros(RUNS, bool), np.zeros(RUNS, int), 0
    for n in Plan(Rules(1.0, N_MAX, ALPHA, "clopper_pearson", 2, deadline=True)).looks:
        s += rng.binomial(n - drawn, ONE[0], RUNS)
        drawn = n
        worst |= fixed.prove(n, s, n - s, final=True).radius > true_radius(ONE, "clopper_pearson")
    assert not not_above(np.count_nonzero(worst))
    assert worst.mean() > 2 * ALPHA


@pytest.mark.parametrize("p", [0.5, 0.9, 0.999])
def test_the_sequence_holds_at_every_single_vote(p):
    """Not only at the looks: vote by vote, the true p is ever rejected in at most alpha of the runs."""
    votes, alpha = 600, 0.02
    n = np.arange(1, votes + 1)
    table = np.array([log_mixture(np.minimum(s, n), n, p) for s in range(votes + 1)]) >= -np.log(alpha)
    s = np.cumsum(np.random.default_rng(11).random((RUNS, votes)) < p, axis=1)
    rejected = table[s, n[None, :] - 1].any(axis=1)
    assert not_above(np.count_nonzero(rejected), alpha)
    assert rejected.any() or p > 0.99


def test_giving_up_falsely_is_rarer_than_its_level():
    """A target just within reach is called futile with probability at most 1e-4."""
    plan = Plan(Rules(1.0, 20_000, 0.001, "clopper_pearson", 2, target_radius=1.0))
    p = float(ndtr(1.0 + 1e-6))
    stops = simulate(plan, [p, 1 - p], RUNS, np.random.default_rng(5))
    assert not_above(np.count_nonzero(stops.code == 2), 1e-4)


@pytest.mark.parametrize("early_stop", [False, True])
@pytest.mark.parametrize("probabilities", [[0.4, 0.4, 0.2], [0.5, 0.5], [0.25, 0.25, 0.25, 0.25]])
def test_wrong_predictions_are_rare_enough(probabilities, early_stop):
    """The hardest case is a tie, where either answer is as good as wrong: each is given in at most alpha."""
    rng, alpha = np.random.default_rng(7), 0.05
    looks = predict_looks(500, alpha, early_stop=early_stop)
    counts, drawn = np.zeros((4_000, len(probabilities)), int), 0
    answered = np.zeros(4_000, bool)
    for look in looks:
        counts += rng.multinomial(look.n - drawn, probabilities, size=4_000)
        drawn = look.n
        states, which = np.unique(np.sort(counts, axis=1), axis=0, return_inverse=True)
        p_values = np.array([top_class_test(state.tolist()).p_value for state in states])
        answered |= (p_values <= look.alpha)[which.reshape(-1)]
    assert not_above(np.count_nonzero(answered), alpha, 4_000)
