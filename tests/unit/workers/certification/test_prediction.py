"""Promise: a prediction is the exact top-class test, and stopping it early costs no validity."""

import pytest
from scipy.stats import binomtest

from spacte_client.types import ABSTAIN
from spacte_workers.bench.simulated import simulated_votes
from spacte_workers.certification.prediction import PredictionRun, PredictSpec
from spacte_workers.shards import Phase, Shard, Votes
from spacte_workers.statistics.top_class import predict_looks, top_class_test


def spec(**changes) -> PredictSpec:
    defaults = {"sigma": 0.5, "num_classes": 3, "n": 1_000, "alpha": 0.001, "noise": "grid", "seed": "1" * 32}
    return PredictSpec(**{**defaults, **changes})


def run(one: PredictSpec, probabilities, size=64):
    prediction = PredictionRun(one)
    while not prediction.done:
        shards = prediction.next_shards(size)
        assert shards
        for shard in reversed(shards):
            prediction.give(shard, Votes(simulated_votes(shard, probabilities), 0.1))
    return prediction.outcome()


def test_the_answer_is_the_binomial_test_of_the_two_largest_counts():
    outcome = run(spec(), (0.2, 0.5, 0.3))
    counts = simulated_votes(Shard(spec().noise_source, Phase.PREDICTION, 0, 1_000), (0.2, 0.5, 0.3))
    assert outcome.counts == counts
    assert outcome.p_value == pytest.approx(binomtest(counts[1], counts[1] + counts[2], 0.5).pvalue)
    assert (outcome.label, outcome.abstained, outcome.n) == (1, False, 1_000)


def test_no_clear_lead_is_an_abstention():
    outcome = run(spec(), (0.2, 0.4, 0.4))
    assert (outcome.label, outcome.abstained) == (ABSTAIN, True)
    assert outcome.p_value > 0.001


def test_ties_go_to_the_lowest_class():
    assert top_class_test([3, 7, 7]).label == 1
    assert top_class_test([3, 7, 7]).p_value == 1.0
    assert top_class_test([0, 0, 5]).label == 2


@pytest.mark.parametrize(("n", "alpha"), [(1, 0.05), (16, 0.05), (17, 0.05), (1_000, 0.001), (10**6, 0.001)])
def test_looks_share_alpha(n, alpha):
    looks = predict_looks(n, alpha, early_stop=True)
    assert looks[-1].n == n
    assert [look.n for look in looks] == sorted({look.n for look in looks})
    assert sum(look.alpha for look in looks) <= alpha * (1 + 1e-12)
    assert predict_looks(n, alpha, early_stop=False) == (type(looks[0])(n, alpha),)


def test_an_easy_image_stops_early_with_the_same_answer():
    early = run(spec(early_stop=True), (0.02, 0.95, 0.03))
    assert early.label == 1
    assert early.n == 32
    assert sum(early.counts) == early.n
    assert run(spec(early_stop=True), (0.02, 0.95, 0.03), size=999) == early


def test_the_outcome_is_not_there_before_the_votes_are():
    with pytest.raises(RuntimeError, match="before"):
        PredictionRun(spec()).outcome()
