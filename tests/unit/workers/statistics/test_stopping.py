"""Promise: each look concludes what its rules say, from a bound that is valid there."""

import itertools

import numpy as np
import pytest

from spacte_workers.statistics.bounds import clopper_pearson_lower, clopper_pearson_upper, radius, two_class_radius
from spacte_workers.statistics.sequences import mixture_lower, mixture_upper
from spacte_workers.statistics.stopping import (
    FUTILITY_LEVEL,
    GROWTH,
    LEAST_STEP,
    STOP_CODES,
    Plan,
    Rules,
    choose_bound,
    look_schedule,
    plan_for,
)


def rules(**changes) -> Rules:
    defaults = {"sigma": 0.5, "n_max": 10_000, "alpha": 0.001, "bound": "clopper_pearson", "num_classes": 10}
    return Rules(**{**defaults, **changes})


@pytest.mark.parametrize("n_max", [1, 15, 16, 17, 100, 10_000, 10_000_000])
def test_looks_are_ascending_dense_and_end_at_n_max(n_max):
    looks = look_schedule(n_max)
    assert looks[-1] == n_max
    assert list(looks) == sorted(set(looks))
    assert all(b <= max(a + LEAST_STEP, GROWTH * a + 1) for a, b in itertools.pairwise(looks))


def test_looks_do_not_depend_on_anything_but_n_max():
    shared = look_schedule(10_000)[:-1]
    assert look_schedule(100_000)[: len(shared)] == shared


def test_without_a_rule_there_is_one_look_with_the_whole_alpha():
    plan = Plan(rules())
    assert plan.looks == (10_000,)
    found = plan.proven(0, 9_000, 1_000)
    assert found.p_lower == float(clopper_pearson_lower(9_000, 10_000, 0.001))
    assert plan.first_stop(0, [9_000], [1_000]) == (0, "n_max")


def test_without_a_rule_two_classes_share_alpha():
    found = Plan(rules(bound="two_class")).proven(0, 4_500, 2_000)
    lower, upper = clopper_pearson_lower(4_500, 10_000, 0.0005), clopper_pearson_upper(2_000, 10_000, 0.0005)
    assert found.p_lower == float(lower)
    assert found.certified
    assert found.radius == pytest.approx(float(two_class_radius(lower, upper, 0.5)), abs=1e-6)


@pytest.mark.parametrize("rule", [{"target_radius": 0.4, "version": 1}, {"tolerance": 0.01}, {"deadline": True}])
def test_rules_halve_alpha(rule):
    plan = Plan(rules(**rule))
    n = plan.looks[20]
    middle, end = plan.proven(20, n - 5, 5), plan.proven(len(plan.looks) - 1, 9_000, 1_000)
    assert middle.p_lower == float(mixture_lower(n - 5, n, 0.0005))
    assert end.p_lower == float(clopper_pearson_lower(9_000, 10_000, 0.0005))


@pytest.mark.parametrize("rule", [{"target_radius": 0.4}, {"tolerance": 0.01}, {"deadline": True}])
def test_two_classes_and_any_rule_quarter_alpha(rule):
    plan = Plan(rules(bound="two_class", **rule))
    n = plan.looks[20]
    middle, end = plan.proven(20, n - 9, 5), plan.proven(len(plan.looks) - 1, 6_000, 1_000)
    assert middle.p_lower == float(mixture_lower(n - 9, n, 0.00025))
    expected = two_class_radius(middle.p_lower, mixture_upper(5, n, 0.00025), 0.5)
    assert middle.radius == pytest.approx(float(expected), abs=1e-6)
    expected = two_class_radius(
        clopper_pearson_lower(6_000, 10_000, 0.00025), clopper_pearson_upper(1_000, 10_000, 0.00025), 0.5
    )
    assert end.radius == pytest.approx(float(expected), abs=1e-6)


def test_the_noise_error_comes_off_the_bound():
    exact, table = Plan(rules()), Plan(rules(noise_error=1e-3))
    assert table.proven(0, 9_000, 1_000).p_lower == exact.proven(0, 9_000, 1_000).p_lower - 1e-3
    two = Plan(rules(bound="two_class", noise_error=1e-3)).proven(0, 6_000, 1_000)
    lower, upper = clopper_pearson_lower(6_000, 10_000, 0.0005), clopper_pearson_upper(1_000, 10_000, 0.0005)
    assert two.radius == pytest.approx(float(two_class_radius(lower - 1e-3, upper + 1e-3, 0.5)), abs=1e-6)


def test_the_target_is_shown_when_the_written_radius_reaches_it():
    plan = Plan(rules(target_radius=0.4))
    for look, n in enumerate(plan.looks):
        for s in range(max(0, n - n // 4), n + 1, 1 + n // 60):
            stop = plan.first_stop(look, [s], [n - s])
            shown = plan.proven(look, s, n - s).radius >= 0.4
            assert shown == (stop is not None and stop[1] == "target"), (n, s)


def test_futility_is_when_the_upper_sequence_falls_below_the_target():
    plan = Plan(rules(target_radius=0.4))
    for look in (5, 20, 40):
        n = plan.looks[look]
        for s in range(n // 3, n):
            futile = float(radius(mixture_upper(s, n, FUTILITY_LEVEL), 0.5)) < 0.4
            stop = plan.first_stop(look, [s], [n - s])
            assert futile == (stop is not None and stop[1] == "futility"), (n, s)


@pytest.mark.parametrize("bound", ["clopper_pearson", "two_class"])
def test_a_target_beyond_n_max_is_given_up_at_once(bound):
    """Were all remaining votes for the class, 100 votes could not show 5 sigma: which says nothing of the radius."""
    plan = Plan(rules(n_max=100, target_radius=2.5, bound=bound))
    assert plan.first_stop(0, [16], [0]) == (0, "unprovable")
    first = Plan(rules(n_max=100, target_radius=2.5, bound=bound, version=1))
    assert first.first_stop(0, [16], [0]) == (0, "futility")


@pytest.mark.parametrize("bound", ["clopper_pearson", "two_class"])
def test_futility_is_a_statement_about_the_radius(bound):
    plan = Plan(rules(n_max=100, target_radius=2.5, bound=bound))
    assert plan.first_stop(1, [16], [16]) == (1, "futility")


@pytest.mark.parametrize(
    ("votes", "chosen"),
    [
        ([80, 10, 6, 4], "two_class"),
        ([45, 30, 25], "two_class"),
        ([60, 40], "clopper_pearson"),
        ([60, 40, 0], "clopper_pearson"),
        ([100, 0, 0], "clopper_pearson"),
        ([0, 0, 0], "clopper_pearson"),
        ([0, 0, 50], "two_class"),
    ],
)
def test_auto_is_the_bound_that_promises_more(votes, chosen):
    """In the last case half of the selection noises voted for no class."""
    assert choose_bound(rules(bound="auto", target_radius=0.3, num_classes=len(votes)), votes, 100) == chosen


def test_a_bound_that_is_asked_for_is_taken():
    assert choose_bound(rules(), [45, 30, 25], 100) == "clopper_pearson"


def test_tolerance_stops_when_the_rest_can_add_less():
    plan = Plan(rules(tolerance=0.02, n_max=100_000))
    stops = [plan.first_stop(k, [round(0.9 * n)], [n - round(0.9 * n)]) for k, n in enumerate(plan.looks)]
    first = next(k for k, stop in enumerate(stops) if stop)
    assert stops[first] == (first, "tolerance")
    n = plan.looks[first]
    s = round(0.9 * n)
    best = s + (100_000 - n) * float(mixture_upper(s, n, FUTILITY_LEVEL))
    gain = radius(clopper_pearson_lower(best, 100_000, 0.0005), 0.5) - radius(mixture_lower(s, n, 0.0005), 0.5)
    assert 0 < float(gain) < 0.02
    at_end = float(radius(clopper_pearson_lower(90_000, 100_000, 0.0005), 0.5))
    assert at_end - plan.proven(first, s, n - s).radius < 0.02


def test_a_wrong_class_stops_early_under_tolerance():
    """Once the class cannot have the majority, drawing on adds nothing: an abstention."""
    plan = Plan(rules(tolerance=0.02))
    look = plan.looks.index(next(n for n in plan.looks if n > 300))
    assert plan.first_stop(look, [30], [270]) == (look, "tolerance")
    assert not plan.proven(look, 30, 270).certified


def test_a_deadline_alone_never_stops_on_votes():
    plan = Plan(rules(deadline=True))
    last = len(plan.looks) - 1
    assert plan.first_stop(0, list(plan.looks[:-1]), [0] * last) is None
    assert plan.first_stop(last, [10_000], [0]) == (last, "n_max")


@pytest.mark.parametrize("bound", ["clopper_pearson", "two_class"])
def test_many_looks_at_once_are_the_looks_one_by_one(bound):
    """Votes arrive in lumps: the first look that stops is the same, whatever the lumps."""
    spec = rules(target_radius=0.5, tolerance=0.03, bound=bound, n_max=3_000)
    rng = np.random.default_rng(5)
    for _ in range(8):
        plan, p = Plan(spec), rng.uniform(0.6, 0.99)
        steps = rng.binomial(np.diff((0, *plan.looks)), p)
        tops = np.cumsum(steps).tolist()
        seconds = [(n - s) // 2 for n, s in zip(plan.looks, tops, strict=True)]
        one_by_one = next(
            stop for k in range(len(tops)) if (stop := plan.first_stop(k, tops[k : k + 1], seconds[k : k + 1]))
        )
        cut = int(rng.integers(1, len(tops)))
        in_lumps = plan.first_stop(0, tops[:cut], seconds[:cut]) or plan.first_stop(cut, tops[cut:], seconds[cut:])
        assert in_lumps == one_by_one


@pytest.mark.slow
def test_what_a_plan_remembers_is_what_it_would_compute():
    remembered, spec = plan_for(rules(target_radius=0.45)), rules(target_radius=0.45)
    assert plan_for(spec) is remembered
    rng = np.random.default_rng(1)
    for _ in range(300):
        look = int(rng.integers(len(remembered.looks)))
        n = remembered.looks[look]
        s = int(rng.binomial(n, rng.uniform(0.7, 0.95)))
        final = look == len(remembered.looks) - 1
        code = int(Plan(spec).stop_codes(n, s, n - s, final=final))
        stop = remembered.first_stop(look, [s], [n - s])
        assert (stop[1] if stop else None) == STOP_CODES.get(code), (n, s)
