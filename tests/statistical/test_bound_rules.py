"""Promise: choosing the bound costs no alpha under any stopping rule, and no restated certificate passes a replay."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import binomtest

from spacte_workers.bench.samples import simulate
from spacte_workers.certification.canonical import digest
from spacte_workers.noise.philox import stream_words
from spacte_workers.shards import NoiseSource, Phase
from spacte_workers.statistics.bounds import clopper_pearson_lower
from spacte_workers.statistics.stopping import Plan, Rules, choose_bound, look_schedule

pytestmark = [pytest.mark.long, pytest.mark.slow]

RUNS, EDGE_RUNS, ALPHA, N0, N_MAX = 8_400, 50_000, 0.01, 50, 1_000  # of 24 cases: 200,000 runs
RULES = ["none", "target", "tolerance", "deadline", "target and tolerance", "target and deadline"]


def true_radius(top, second, bound):
    return float(ndtri(top)) if bound == "clopper_pearson" else float(ndtri(top) - ndtri(second)) / 2


@pytest.mark.parametrize("probabilities", [[0.7, 0.3], [0.62, 0.2, 0.18], [0.55, 0.4, 0.05], [0.46, 0.3, 0.24]])
@pytest.mark.parametrize("rule", RULES)
def test_false_certificates_of_auto(probabilities, rule):
    """The target lies just above the true radius of the bound that is chosen: the worst there is."""
    rng, false, certified = np.random.default_rng(29), 0, 0
    votes, runs = np.unique(rng.multinomial(N0, probabilities, size=RUNS), axis=0, return_counts=True)
    asked = Rules(1.0, N_MAX, ALPHA, "auto", len(probabilities), deadline="deadline" in rule)
    groups: dict = {}
    for counts, times in zip(votes.tolist(), runs.tolist(), strict=True):
        key = counts.index(max(counts)), choose_bound(asked, counts, N0)
        groups[key] = groups.get(key, 0) + times
    for (selected, bound), times in groups.items():
        ordered = [probabilities[selected], *(p for c, p in enumerate(probabilities) if c != selected)]
        radius = max(true_radius(ordered[0], max(ordered[1:]), bound), 0.0)
        changes = {"target_radius": radius + 1e-4} if "target" in rule else {}
        changes |= {"tolerance": 0.2} if "tolerance" in rule else {}
        plan = Plan(replace(asked, bound=bound, **changes))
        cut = rng.integers(0, len(plan.looks), times) if "deadline" in rule else None
        stops = simulate(plan, ordered, times, rng, cut_after=cut)
        false += np.count_nonzero(stops.radius > radius + 1e-12)
        certified += np.count_nonzero(stops.radius)
    assert binomtest(int(false), RUNS, ALPHA, alternative="greater").pvalue > 1e-3
    assert certified or "target" in rule or min(probabilities) > 0.2


@pytest.mark.parametrize("bound", ["clopper_pearson", "two_class"])
def test_boundaries_of_a_target_are_rarely_reached_falsely(bound):
    """At the very edge, 50,000 runs: what exact spending leaves is used, and no more."""
    p = 0.7 if bound == "clopper_pearson" else 0.62
    target = true_radius(p, 1 - p if bound == "clopper_pearson" else 0.2, bound)
    plan = Plan(Rules(1.0, 2_000, ALPHA, bound, 3, target_radius=target + 1e-6))
    others = [1 - p, 0.0] if bound == "clopper_pearson" else [0.2, 0.18]
    stops = simulate(plan, [p, *others], EDGE_RUNS, np.random.default_rng(31))
    shown = np.count_nonzero(stops.code == 1)
    assert binomtest(int(shown), EDGE_RUNS, ALPHA, alternative="greater").pvalue > 1e-3
    if bound == "clopper_pearson":
        assert shown > 0.7 * ALPHA * EDGE_RUNS


def test_four_hundred_thousand_best_looks_pass_no_replay():
    """Each run's best look, restated as a request for so many noises: false too often, and drawn again never there."""
    runs, p, alpha, n0, n_max = 400_000, 0.8, 0.001, 100, 10_000
    rng, drawn, votes = np.random.default_rng(37), 0, np.zeros(runs, np.int64)
    best, best_n, best_votes = np.zeros(runs), np.zeros(runs, np.int64), np.zeros(runs, np.int64)
    for n in look_schedule(n_max):
        votes += rng.binomial(n - drawn, p, runs)
        drawn = n
        lower = clopper_pearson_lower(np.arange(n + 1), n, alpha)[votes]
        better = lower > best
        best[better], best_n[better], best_votes[better] = lower[better], n, votes[better]
    selection = rng.binomial(n0, p, runs)
    false = np.flatnonzero(best > p)
    assert len(false) / runs > 5 * alpha  # what restating would gain
    passed = 0
    for run in false:
        request = {"alpha": alpha, "bound": "clopper_pearson", "n0": n0, "n_max": int(best_n[run]), "version": 2}
        source = NoiseSource(f"{run:032x}", 0, 1.0, "grid", request_digest=digest(request))
        again = [
            np.random.default_rng(stream_words(source, phase)).binomial(n, p)
            for phase, n in ((Phase.SELECTION, n0), (Phase.ESTIMATION, int(best_n[run])))
        ]
        passed += again == [selection[run], best_votes[run]]
    assert passed == 0


@pytest.mark.parametrize(
    ("probabilities", "alone", "chosen"),
    [([0.8, 0.1, 0.06, 0.04], 0.798, 1.010), ([0.6, 0.2, 0.2], 0.214, 0.499), ([0.6, 0.4], 0.2105, 0.2105)],
)
def test_mean_radii_of_the_bound_that_is_chosen(probabilities, alone, chosen):
    """Over 20,000 runs at n = 10,000, in units of sigma: those of the design within .005."""
    runs, n, rng = 20_000, 10_000, np.random.default_rng(41)
    votes, times = np.unique(rng.multinomial(100, probabilities, runs), axis=0, return_counts=True)
    for asked, expected in (("clopper_pearson", alone), ("auto", chosen)):
        rules, total = Rules(1.0, n, 0.001, asked, len(probabilities)), 0.0
        for counts, count in zip(votes.tolist(), times.tolist(), strict=True):
            label = counts.index(max(counts))
            plan = Plan(replace(rules, bound=choose_bound(rules, counts, 100)))
            ordered = [probabilities[label], *(p for c, p in enumerate(probabilities) if c != label)]
            total += simulate(plan, ordered, count, rng).radius.sum()
        assert abs(total / runs - expected) < 0.005
