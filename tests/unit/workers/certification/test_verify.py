"""Promise: a true certificate passes the audit, and one that was changed in any number does not."""

import json

import pytest

from spacte_client.rounding import round_down
from spacte_client.types import Certificate
from spacte_workers.bench.simulated import probabilities, simulated_image, simulated_votes
from spacte_workers.certification import certificates
from spacte_workers.certification.algorithm import Certification, CertifySpec
from spacte_workers.certification.canonical import bound_to_noise
from spacte_workers.certification.verify import _answer, _plan, _source, _votes, check, check_line, notes, replay
from spacte_workers.noise.table import noise_table
from spacte_workers.shards import Phase, Shard, Votes
from spacte_workers.statistics.stopping import STOP_CODES

MODEL = certificates.ModelIdentity("m", "f" * 64, ("a", "b", "c"), "fp32", "plain")
SHA256 = "0" * 64
IMAGE = simulated_image([0.1, 0.8, 0.1])
RULES = [
    {},
    {"bound": "two_class"},
    {"target_radius": 0.1},
    {"target_radius": 0.3},
    {"target_radius": 0.1, "bound": "two_class"},
    {"tolerance": 0.05},
    {"tolerance": 0.05, "bound": "two_class"},
    {"noise": "float", "noise_error": 0.0},
    {"n_max": 20, "alpha": 0.3},
    {"expected": 1},
    {"expected": 0},
    {"expected": 2, "target_radius": 0.1, "bound": "auto"},
]


class Engine:
    """Votes from the probabilities in the image's bytes."""

    def votes(self, image, shard):
        return Votes(simulated_votes(shard, probabilities(image)), 0.01)


def made(*, deadline_n: int | None = None, image=IMAGE, **changes) -> Certificate:
    settings = {
        "sigma": 0.25,
        "num_classes": 3,
        "n0": 30,
        "n_max": 1_500,
        "alpha": 0.001,
        "bound": "clopper_pearson",
        "noise": "grid",
        "seed": "c" * 32,
        "noise_error": 3 * noise_table(0.25).total_variation,
        "deadline": deadline_n is not None,
    }
    spec = CertifySpec(**{**settings, **changes})
    spec = bound_to_noise(spec, MODEL, SHA256)
    run = Certification(spec)
    while not run.done:
        for shard in run.next_shards(200):
            run.give(shard, Engine().votes(image, shard))
        if deadline_n is not None and run.progress().samples >= deadline_n:
            run.expire()
    return certificates.certificate(
        spec,
        run.outcome(),
        MODEL,
        id="req_1",
        image_sha256=SHA256,
        elapsed_ms=5.0,
        deadline_ms=None if deadline_n is None else 10,
    )


@pytest.mark.parametrize("rule", RULES)
def test_true_certificates_fit(rule):
    certificate = made(**rule)
    assert check(certificate) == []
    assert check(Certificate.model_validate_json(certificate.model_dump_json())) == []
    assert replay(certificate, Engine(), IMAGE) == []


def test_a_certificate_cut_by_its_deadline_fits():
    certificate = made(deadline_n=300)
    assert certificate.stop_reason == "deadline"
    assert check(certificate) == []


def test_an_abstention_fits():
    certificate = made(image=simulated_image([0.34, 0.33, 0.33]))
    assert certificate.abstained
    assert check(certificate) == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"redrawn": 99}, "redrawn"),
        ({"radius": 0.25}, "radius"),
        ({"radius": 0.0}, "radius"),
        ({"p_lower": 0.9}, "p_lower"),
        ({"label": 0}, "label"),
        ({"abstained": True, "label": -1, "radius": 0.0}, "label"),
        ({"counts": [0, 1_500, 0]}, "p_lower"),
        ({"counts": [100, 1_500, 100]}, "counts"),
        ({"counts": [-10, 1_500, 10]}, "counts"),
        ({"counts": [750, 750]}, "counts"),
        ({"selection_counts": [30, 0, 0]}, "label"),
        ({"selection_counts": [0, 31, 0]}, "selection_counts"),
        ({"alpha": 0.1}, "p_lower"),
        ({"alpha": 1.5}, "alpha"),
        ({"sigma": 0.0}, "sigma"),
        ({"sigma": 0.5, "noise_error": 3 * noise_table(0.5).total_variation}, "radius"),
        ({"bound": "two_class"}, "p_lower"),
        ({"noise_error": 0.0}, "noise_error"),
        ({"noise": "float"}, "noise_error"),
        ({"stop_reason": "target"}, "stop_reason"),
        ({"stop_reason": "deadline"}, "stop_reason"),
        ({"looks": 2}, "looks"),
        ({"n_max": 1_000}, "n"),
        ({"n_max": 10_000}, "n"),
        ({"target_radius": 0.1}, "looks"),
        ({"tolerance": 0.1}, "p_lower"),
        ({"p_lower": float("nan")}, "p_lower"),
        ({"sigma": float("nan")}, "sigma"),
        ({"sigma": float("inf")}, "sigma"),
        ({"sigma": 13.0}, "sigma"),
        ({"sigma": 1e-300}, "sigma"),
        ({"noise_error": float("nan")}, "noise_error"),
        ({"target_radius": 1e22}, "target_radius"),
        ({"target_radius": float("nan")}, "target_radius"),
        ({"tolerance": float("inf")}, "tolerance"),
        ({"seed": "no seed"}, "seed"),
        ({"k_consensus": 0}, "k_consensus"),
        ({"image_index": -1}, "image_index"),
        ({"n_max": 0}, "n_max"),
        ({"n_max": 10**400}, "n_max"),
        ({"counts": [0, 10**400, 0], "n": 10**400, "n_max": 10**400}, "counts"),
    ],
)
def test_a_changed_certificate_does_not_fit(changes, named):
    findings = check(made().model_copy(update=changes))
    assert named in [finding.partition(":")[0] for finding in findings]
    assert all(finding.endswith(".") and "\n" not in finding for finding in findings)


@pytest.mark.parametrize(
    ("expected", "changes", "named"),
    [
        (None, {"expected": 0}, "stop_reason"),
        (None, {"expected": 3}, "expected"),
        (None, {"stop_reason": "incorrect"}, "stop_reason"),
        (1, {"expected": 0}, "stop_reason"),
        (1, {"n": 0, "counts": [0, 0, 0]}, "counts"),
        (0, {"expected": None}, "stop_reason"),
        (0, {"expected": 1}, "stop_reason"),
        (0, {"stop_reason": "n_max"}, "counts"),
        (0, {"n": 3, "counts": [1, 1, 1]}, "n"),
        (0, {"n": 1_500, "counts": [0, 1_500, 0]}, "n"),
        (0, {"label": 1, "label_name": "b", "abstained": False}, "label"),
        (0, {"radius": 0.1}, "radius"),
        (0, {"p_lower": 0.7}, "p_lower"),
        (0, {"looks": 1}, "looks"),
        (0, {"bound": "two_class"}, "bound"),
        (0, {"selection_counts": [30, 0, 0]}, "stop_reason"),
    ],
)
def test_who_was_stopped_as_incorrect_follows_from_the_votes(expected, changes, named):
    certificate = made() if expected is None else made(expected=expected)
    findings = check(certificate.model_copy(update=changes))
    assert named in [finding.partition(":")[0] for finding in findings]


def test_a_replay_draws_the_selection_of_an_image_that_was_stopped():
    seen = []
    certificate = made(expected=0)
    assert replay(certificate, Engine(), IMAGE, on_progress=seen.append) == []
    assert seen == [30]
    a, b, c = certificate.selection_counts
    forged = certificate.model_copy(update={"selection_counts": [a, b - 1, c + 1]})
    assert check(forged) == []
    assert replay(forged, Engine(), IMAGE)[0].startswith("selection_counts: drawn again, 1 of 30 votes")


@pytest.mark.parametrize(("changes", "should"), [({}, "have gone on"), ({"expected": 0}, "have been stopped there")])
def test_a_replay_says_where_the_selection_stops_otherwise(changes, should):
    """Of an image that was stopped at class 0, and of one that went on with it, where the votes are for class 1."""
    certificate = made(expected=1) if changes else made(expected=0).model_copy(update={"expected": 1})
    forged = certificate.model_copy(update={**changes, "selection_counts": [30, 0, 0]})
    assert replay(forged, Engine(), IMAGE)[-1] == (
        f"replay: the selection drawn again chooses class 1, so that it should {should}."
    )


def test_a_line_that_contradicts_its_certificate_does_not_fit():
    certificate = made(expected=1)
    line = {"outcome": "certified", "true_label": 1, "correct": True}
    assert check_line(line, certificate) == []
    for changes, named in (({"outcome": "abstained"}, "outcome"), ({"correct": False}, "correct")):
        assert [finding.partition(":")[0] for finding in check_line(line | changes, certificate)] == [named]
    assert "expected: it is 1, but true_label is 2." in check_line(line | {"true_label": 2}, certificate)
    assert check_line({"outcome": "certified", "true_label": None, "correct": None}, made()) == []


def test_the_expected_class_is_no_way_to_other_noises():
    assert made(expected=1).counts == made().counts


def test_peeking_is_found_out():
    """A fixed-n certificate that was stopped at the moment it looked best claims an n that is no look."""
    honest = made(target_radius=0.1)
    peeked = honest.model_copy(update={"counts": [10, 85, 10], "n": 105, "target_radius": 0.1, "stop_reason": "target"})
    assert check(peeked) == ["n: 105 is not one of the predetermined looks, so no bound holds there."]


def test_a_radius_rounded_up_does_not_fit():
    """One step of the last digit too much is a false claim."""
    certificate = made()
    assert check(certificate.model_copy(update={"radius": round(certificate.radius + 1e-6, 6)}))


@pytest.mark.parametrize("changes", [{"seed": "d" * 32}, {"image_index": 1}])
def test_a_replay_finds_other_noise(changes):
    findings = replay(made().model_copy(update=changes), Engine(), IMAGE)
    assert findings[-2].startswith("counts: drawn again, ")


def test_a_replay_finds_invented_votes():
    certificate = made()
    a, b, c = certificate.counts
    forged = certificate.model_copy(update={"counts": [a - 10, b + 10, c]})
    seen = []
    assert replay(forged, Engine(), IMAGE, on_progress=seen.append) == [
        "counts: drawn again, 10 of 1500 votes went to another class.",
        f"replay: the counts drawn again give the same label and radius, class 1 and {certificate.radius:g}.",
    ]
    claimed = forged.model_copy(update={"radius": 0.5})
    assert replay(claimed, Engine(), IMAGE)[-1] == (
        f"replay: the counts drawn again give class 1 and a radius of {certificate.radius:g}, in place of 0.5."
    )
    assert seen[-1] == 1_530
    assert json.loads(forged.model_dump_json())["n"] == 1_500


RESTATEMENTS = [
    ({"target_radius": 0.1}, lambda c: {"n_max": c.n, "target_radius": None, "looks": 1, "stop_reason": "n_max"}),
    ({}, lambda c: {"alpha": 0.01}),
    ({}, lambda c: {"bound": "two_class", "bound_requested": "two_class"}),
    ({}, lambda c: {"bound_requested": "auto"}),
    ({"target_radius": 0.3}, lambda c: {"target_radius": 0.25}),
    ({"tolerance": 0.05}, lambda c: {"tolerance": 0.06}),
    ({}, lambda c: {"deadline_ms": 10}),
    ({}, lambda c: {"k_consensus": 1}),
    ({}, lambda c: {"seed_source": "caller"}),
    ({}, lambda c: {"model": "another"}),
    ({}, lambda c: {"image_index": 1}),
]


def proven_by_its_numbers(c: Certificate) -> Certificate:
    """The certificate as a forger makes it fit: every field that follows from others is recomputed."""
    plan = _plan(c)
    label, p_lower, exact = _answer(c, plan)
    look = plan.looks.index(c.n) if c.n in plan.looks else 0
    _, top, second = _votes(c)
    code = STOP_CODES.get(int(plan.stop_codes(c.n, top, second, final=c.n == c.n_max)), c.stop_reason)
    update = {"label": label, "abstained": label == -1, "p_lower": p_lower, "radius": round_down(exact)}
    return c.model_copy(update={**update, "looks": look + 1, "stop_reason": code})


@pytest.mark.parametrize(("rules", "restated"), RESTATEMENTS)
def test_no_rule_can_be_restated(rules, restated):
    certificate = made(**rules)
    changed = certificate.model_copy(update=restated(certificate))
    forged = changed if changed.deadline_ms else proven_by_its_numbers(changed)
    assert replay(certificate, Engine(), IMAGE) == []
    assert _source(forged) != _source(certificate)
    assert check(forged) or any("drawn again" in finding for finding in replay(forged, Engine(), IMAGE))


def test_what_a_certificate_of_version_1_does_not_say_is_said_aloud():
    assert notes(made()) == []
    old = made().model_copy(update={"schema_version": 1, "bound_requested": None, "seed_source": None})
    assert check(old) == []
    assert ["version 1" in note for note in notes(old)] == [True]
    assert ["caller" in note for note in notes(made(seed_source="caller"))] == [True]


def test_a_look_after_the_rule_held_is_found_by_a_replay():
    early = made(target_radius=0.1)
    later = made(target_radius=0.1, deadline_n=None)
    plan = _plan(early)
    look = plan.looks.index(early.n) + 1
    spec_source = _source(later)
    counts = list(simulated_votes(Shard(spec_source, Phase.ESTIMATION, 0, plan.looks[look]), probabilities(IMAGE)))
    late = proven_by_its_numbers(early.model_copy(update={"n": plan.looks[look], "counts": counts}))
    assert check(late) == []
    (finding,) = replay(late, Engine(), IMAGE)
    assert "valid, but not what the rule gives" in finding


def test_what_follows_from_the_model_is_recomputed():
    certificate = made()
    names = MODEL.class_names
    assert replay(certificate, Engine(), IMAGE, class_names=names) == []
    forged = certificate.model_copy(update={"label_name": "z"})
    assert "the model calls class 1 b" in replay(forged, Engine(), IMAGE, class_names=names)[0]
    forged = certificate.model_copy(update={"noise_error": certificate.noise_error * 2})
    assert "noise_error" in replay(forged, Engine(), IMAGE)[0]


def test_the_bound_follows_from_the_selection_votes():
    certificate = made(bound="auto")
    assert (certificate.bound, certificate.bound_requested) == ("two_class", "auto")
    assert check(certificate) == []
    other = certificate.model_copy(update={"bound": "clopper_pearson"})
    assert "auto gives two_class" in check(proven_by_its_numbers(other))[0]
