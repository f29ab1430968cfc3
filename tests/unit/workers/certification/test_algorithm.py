"""Promise: an outcome follows from the specification and the votes, whatever the shards, order and losses."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacte_client.rounding import round_down
from spacte_client.types import ABSTAIN
from spacte_workers.bench.simulated import simulated_votes
from spacte_workers.certification.algorithm import Certification, CertifySpec
from spacte_workers.errors import DeadlineExceededError
from spacte_workers.shards import Phase, Shard, Votes
from spacte_workers.statistics.bounds import clopper_pearson_lower, radius

PROBABILITIES = (0.08, 0.85, 0.07)
SEED = "0123456789abcdef0123456789abcdef"
RULES = [
    {},
    {"target_radius": 0.4},
    {"tolerance": 0.05},
    {"target_radius": 0.6, "bound": "two_class"},
    {"expected": 1},
    {"expected": 1, "target_radius": 0.4},
    {"expected": 0},
    {"expected": 0, "tolerance": 0.05},
]


def spec(**changes) -> CertifySpec:
    defaults = {
        "sigma": 0.5,
        "num_classes": 3,
        "n0": 50,
        "n_max": 2_000,
        "alpha": 0.001,
        "bound": "clopper_pearson",
        "noise": "grid",
        "seed": SEED,
    }
    return CertifySpec(**{**defaults, **changes})


def vote(shard: Shard, probabilities=PROBABILITIES) -> Votes:
    return Votes(simulated_votes(shard, probabilities), 0.01)


def run_in_order(one: CertifySpec, size: int = 100, probabilities=PROBABILITIES) -> Certification:
    run = Certification(one)
    while not run.done:
        shards = run.next_shards(size)
        assert shards
        for shard in shards:
            run.give(shard, vote(shard, probabilities))
    return run


def test_simulated_votes_are_a_function_of_the_shard_alone():
    whole = Shard(spec().noise_source, Phase.ESTIMATION, 3, 1_003)
    parts = [Shard(whole.source, whole.phase, a, b) for a, b in ((3, 10), (10, 11), (11, 600), (600, 1_003))]
    counts = [simulated_votes(part, PROBABILITIES) for part in parts]
    assert tuple(map(sum, zip(*counts, strict=True))) == simulated_votes(whole, PROBABILITIES)
    other = Shard(whole.source, Phase.SELECTION, 3, 1_003)
    assert simulated_votes(other, PROBABILITIES) != simulated_votes(whole, PROBABILITIES)


@pytest.mark.parametrize("rule", RULES)
@given(st.integers(0, 2**32), st.integers(1, 700), st.integers(1, 6), st.floats(0, 0.5))
@settings(max_examples=12, deadline=None)
def test_shards_order_losses_and_duplicates_change_nothing(rule, seed, size, at_a_time, loss):
    """Shards come back in any order, some never (drawn again), some twice, some after the end."""
    expected = run_in_order(spec(**rule)).outcome()
    chance, run, in_flight = random.Random(seed), Certification(spec(**rule)), []
    while not run.done:
        while len(in_flight) < at_a_time:
            shards = run.next_shards(chance.randint(1, size), speculate=chance.random() < 0.5)
            if not shards:
                break
            in_flight += shards
        assert in_flight, "not done, nothing in flight and nothing to hand out"
        shard = in_flight.pop(chance.randrange(len(in_flight)))
        if chance.random() < loss:
            run.lost(shard)
            if chance.random() < 0.3:
                assert not run.give(shard, vote(shard))  # the answer of a sampler given up
        else:
            assert run.give(shard, vote(shard))
            assert not run.give(shard, vote(shard))
    for late in in_flight:
        run.give(late, vote(late))
    assert run.outcome() == expected
    assert run.next_shards(10) == []
    assert run.available() == 0


def test_fixed_n_is_the_published_procedure():
    outcome = run_in_order(spec()).outcome()
    source = spec().noise_source
    selection = simulated_votes(Shard(source, Phase.SELECTION, 0, 50), PROBABILITIES)
    estimation = simulated_votes(Shard(source, Phase.ESTIMATION, 0, 2_000), PROBABILITIES)
    lower = float(clopper_pearson_lower(estimation[1], 2_000, 0.001))
    assert outcome.selection_counts == selection
    assert outcome.counts == estimation
    assert (outcome.label, outcome.abstained) == (1, False)
    assert outcome.p_lower == lower
    assert outcome.radius == round_down(float(radius(lower, 0.5)))
    assert (outcome.n, outcome.n0, outcome.looks, outcome.stop_reason) == (2_000, 50, 1, "n_max")


def test_another_class_than_the_expected_one_ends_it_before_any_estimation():
    run, phases = Certification(spec(expected=0, redrawn=7)), set[Phase]()
    while not run.done:
        shards = run.next_shards(20)
        phases |= {shard.phase for shard in shards}
        for shard in shards:
            run.give(shard, replace(vote(shard), logits_NK=np.zeros((shard.size, 3), np.float32)))
    outcome = run.outcome()
    assert phases == {Phase.SELECTION}
    assert outcome.selection_counts == run_in_order(spec()).outcome().selection_counts
    assert (outcome.label, outcome.abstained, outcome.radius, outcome.p_lower) == (ABSTAIN, True, 0.0, 0.0)
    assert (outcome.n, outcome.counts, outcome.looks, outcome.stop_reason) == (0, (0, 0, 0), 0, "incorrect")
    assert (run.surplus, run.next_shards(10), run.available()) == (0, [], 0)


def test_the_expected_class_changes_nothing():
    assert run_in_order(spec(expected=1)).outcome() == run_in_order(spec()).outcome()


def test_no_majority_is_an_abstention():
    outcome = run_in_order(spec(), probabilities=(0.34, 0.33, 0.33)).outcome()
    assert (outcome.label, outcome.abstained, outcome.radius) == (ABSTAIN, True, 0.0)
    assert outcome.p_lower < 0.5


def test_a_tied_selection_takes_the_lowest_class():
    run = Certification(spec(n0=2, n_max=100))
    for size, counts in ((2, (0, 1, 1)), (100, (0, 98, 2))):
        [shard] = run.next_shards(size)
        run.give(shard, Votes(counts, 0.1))
    assert run.outcome().label == 1


def test_selection_votes_are_never_reused():
    run = Certification(spec(n0=10, n_max=20))
    shards = run.next_shards(1_000)
    assert [(s.phase, s.start, s.stop) for s in shards] == [(Phase.SELECTION, 0, 10), (Phase.ESTIMATION, 0, 20)]
    run.give(shards[0], Votes((0, 10, 0), 0.1))
    run.give(shards[1], Votes((20, 0, 0), 0.1))
    outcome = run.outcome()
    assert outcome.abstained  # class 1 was chosen, and has no estimation vote
    assert outcome.p_lower == 0.0


def test_estimation_may_be_complete_before_selection():
    one = spec(target_radius=0.4)
    expected, run = run_in_order(one).outcome(), Certification(one)
    [selection] = run.next_shards(50)
    while shards := run.next_shards(100):
        for shard in shards:
            run.give(shard, vote(shard))
    assert not run.done
    run.give(selection, vote(selection))
    while not run.done:
        shards = run.next_shards(100)
        assert shards
        for shard in shards:
            run.give(shard, vote(shard))
    assert run.outcome() == expected


def test_votes_beyond_the_deciding_look_are_surplus():
    run = Certification(spec(target_radius=0.1))
    for shard in run.next_shards(10_000):
        run.give(shard, vote(shard))
        if run.done:
            break
    assert run.outcome().n < 256
    remaining = Certification(spec(target_radius=0.1))
    shards = remaining.next_shards(10_000)
    for shard in reversed(shards):
        remaining.give(shard, vote(shard))
    assert remaining.outcome() == run.outcome()
    assert remaining.surplus == sum(s.size for s in shards) - 50 - run.outcome().n > 0


def test_no_more_is_handed_out_than_is_likely_to_be_needed():
    run = Certification(spec(target_radius=0.4, n_max=100_000))
    assert sum(s.size for s in run.next_shards(10**6, speculate=False)) == 50 + 64
    assert sum(s.size for s in run.next_shards(10**6)) == 256 - 64
    everything = Certification(spec(n_max=100_000))
    assert sum(s.size for s in everything.next_shards(10**6, speculate=False)) == 50 + 100_000


def test_a_deadline_settles_for_the_last_look():
    one = spec(deadline=True, n_max=100_000)
    run = Certification(one)
    with pytest.raises(DeadlineExceededError, match="allow more time"):
        run.expire()
    given_n = 0
    while given_n < 500:
        shards = run.next_shards(77)
        assert shards
        for shard in shards:
            run.give(shard, vote(shard))
            given_n += shard.size * (shard.phase is Phase.ESTIMATION)
    run.expire()
    outcome = run.outcome()
    assert outcome.stop_reason == "deadline"
    assert outcome.n == max(n for n in run.looks if n <= given_n)
    assert outcome.counts == simulated_votes(Shard(one.noise_source, Phase.ESTIMATION, 0, outcome.n), PROBABILITIES)
    assert outcome.radius > 0
    run.expire()  # once more changes nothing
    assert run.outcome() == outcome


def test_a_fixed_n_certificate_cannot_be_cut_short():
    """Its bound holds at n alone."""
    run = Certification(spec())
    [shard] = run.next_shards(50)
    run.give(shard, vote(shard))
    with pytest.raises(DeadlineExceededError):
        run.expire()


def test_votes_that_do_not_fit_their_shard_are_refused():
    run = Certification(spec())
    [shard] = run.next_shards(50)
    with pytest.raises(ValueError, match="50 noises"):
        run.give(shard, Votes((1, 2, 3), 0.1))
    with pytest.raises(RuntimeError, match="before"):
        run.outcome()


def test_progress_tells_what_is_proven():
    run = Certification(spec(tolerance=0.01, n_max=20_000))
    before = run.progress()
    assert (before.samples, before.looks_done, before.radius, before.p_lower) == (0, 0, 0.0, 0.0)
    assert before.standing is None
    for shard in run.next_shards(200):
        run.give(shard, vote(shard))
    after = run.progress()
    assert after.top_label == 1
    assert after.samples == 150
    assert after.looks_done == sum(n <= 150 for n in run.looks)
    assert after.standing is not None
    assert 0 < after.radius == after.standing.radius
    assert after.standing.n == max(n for n in run.looks if n <= 150)
