"""The audit of a certificate: what its own numbers prove, and, with the model, whether its votes are true.

`check` recomputes label, bound and radius from the counts, offline. `replay` draws every noise again from the
seed and compares the counts exactly. Each finding is one sentence.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Protocol

from spacte_client.rounding import RADIUS_DIGITS, round_down
from spacte_client.types import ABSTAIN, Certificate
from spacte_client.types.certificates import MAX_RADIUS
from spacte_workers.noise.table import noise_table
from spacte_workers.shards import Image, NoiseSource, Phase, Shard, Votes
from spacte_workers.statistics.bounds import radius
from spacte_workers.statistics.disagreement import carried_lower
from spacte_workers.statistics.stopping import STOP_CODES, Plan, Rules, choose_bound

from .algorithm import noise_error
from .canonical import digest, request_in
from .carrying import differences, pairs_of, rows_of, selected_class, voted_by
from .certificates import KERNELS, SCHEMA_VERSION, ModelIdentity

_TOLERANCE = 1e-9  # chosen: versions of SciPy differ in the last digits of a bound, some 1e-15
_SHARD = 4_096  # chosen: many full batches of an engine, and a second of a slow one
_MOST = 2**53 - 1  # beyond it a count is no exact float64 (IEEE 754)


class Voter(Protocol):
    """Draws votes again: an `Engine` with the model of the certificate."""

    def votes(self, image: Image, shard: Shard) -> Votes:
        """Votes of a shard."""
        ...


def check(certificate: Certificate) -> list[str]:
    """What does not fit in a certificate, one sentence a point; empty where everything does."""
    # Without sound counts there is nothing to recompute.
    parts = (_check_counts, _check_carried, _check_noise, _check_expected, _check_proof)
    return next((findings for part in parts if (findings := part(certificate))), [])


def check_line(record: Mapping[str, Any], certificate: Certificate) -> list[str]:
    """What a line of a job's results says beside its certificate and does not fit it, one sentence a point."""
    c, true = certificate, record.get("true_label")
    outcome, correct = "abstained" if c.abstained else "certified", None if true is None else c.label == true
    findings = [] if c.expected in (None, true) else [f"expected: it is {c.expected}, but true_label is {true}."]
    for name, value in (("outcome", outcome), ("correct", correct)):
        if name in record and record[name] != value:
            findings.append(f"{name}: it is {record[name]}, but the certificate and true_label say {value}.")
    return findings


def notes(certificate: Certificate) -> list[str]:
    """What a reader should know of a certificate though nothing in it is wrong, one sentence a point."""
    found: list[str] = []
    if certificate.schema_version < SCHEMA_VERSION:
        found.append(
            "It is of version 1: its rules are not bound to its noise, and could have been restated afterwards."
        )
    if certificate.seed_source == "caller":
        found.append("The caller chose its seed, which proves less: whoever tries several seeds may keep the best.")
    if certificate.stop_reason == "incorrect":
        found.append("It has no estimation noises: the selection chose another class than the true one.")
    if certificate.carried is not None:
        found.append("Another function cast its votes: it is carried over by the noises on which both voted.")
    if certificate.remote is not None:
        found.append(
            f"Its votes are those of a model behind an endpoint, {certificate.remote.url}, which is trusted to be one "
            "fixed function."
        )
    return found


def replay(
    certificate: Certificate,
    voter: Voter,
    image: Image,
    *,
    about: Voter | None = None,
    class_names: Sequence[str] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> list[str]:
    """Draw all noises of a certificate that passed `check` again and compare the counts exactly.

    Args:
        voter: what cast the votes: the model of the certificate at its precision, or what `carried` names.
        image: decoded to the model's input shape.
        about: of a carried certificate, the model at its precision.
        class_names: of the model.
        on_progress: told how many noises have been drawn.

    Returns:
        What does not fit, one sentence a point; where counts differ, the last one says what those drawn again prove.
    """
    c, plan = certificate, _plan(certificate)
    findings = _check_about_model(c, image, class_names) + _replay_pairs(c, voter, about, image)
    looks = _looks(c, plan)
    redrawn: dict[str, list[int]] = {}
    at_looks: list[list[int]] = []
    done = 0
    for name, phase, boundaries, expected in (
        ("selection_counts", Phase.SELECTION, (c.n0,), c.selection_counts),
        ("counts", Phase.ESTIMATION, looks, c.counts),
    ):
        redrawn[name] = drawn = [0] * len(expected)
        at_looks.clear()
        for start, stop in pairwise((0, *boundaries)):
            for first in range(start, stop, _SHARD):
                shard = Shard(_source(c), phase, first, min(first + _SHARD, stop))
                drawn[:] = [a + b for a, b in zip(drawn, voter.votes(image, shard).counts, strict=True)]
                done += shard.size
                if on_progress:
                    on_progress(done)
            at_looks.append(drawn.copy())
        if drawn != expected:
            moved = sum(abs(a - b) for a, b in zip(drawn, expected, strict=True)) + abs(sum(drawn) - sum(expected))
            findings.append(f"{name}: drawn again, {moved // 2} of {boundaries[-1]} votes went to another class.")
    if redrawn != {"selection_counts": c.selection_counts, "counts": c.counts}:
        return [*findings, _compared(c, c.model_copy(update=redrawn))]
    if not looks:
        return findings
    selected = selected_class(c)
    tops, seconds = zip(*(_top_and_second(counts, selected) for counts in at_looks), strict=True)
    stop = plan.first_stop(0, tops, seconds)
    if stop is not None and looks[stop[0]] < c.n:
        findings.append(
            f"stop_reason: the rule held at n = {looks[stop[0]]} already ({stop[1]}); "
            "a later look is valid, but not what the rule gives."
        )
    return findings


def _replay_pairs(c: Certificate, voter: Voter, about: Voter | None, image: Image) -> list[str]:
    """Draw again what both functions of a carried certificate voted on."""
    if c.carried is None or about is None:
        return []
    identity = ModelIdentity(c.model, c.model_version, (), c.precision, c.versions.get(KERNELS, ""))
    pairs = pairs_of(voted_by(c), identity, c.carried.pairs, c.carried.seed, Phase.DISAGREEMENT)
    label, found = selected_class(c), 0
    for start in range(0, pairs.n, _SHARD):
        shard = Shard(pairs.source, pairs.phase, start, min(start + _SHARD, pairs.n))
        voter_N, about_N = (rows_of(each.votes(image, shard)) for each in (voter, about))
        found += differences(label, voter_N, about_N)
    if found == c.carried.differences:
        return []
    return [
        f"carried: drawn again, the functions differ on {found} of {pairs.n} noises, not on {c.carried.differences}."
    ]


def _source(c: Certificate) -> NoiseSource:
    request = digest(request_in(voted_by(c))) if c.schema_version > 1 else ""
    return NoiseSource(c.seed, c.image_index, c.sigma, c.noise, c.k_consensus, request)


def _check_about_model(c: Certificate, image: Image, class_names: Sequence[str] | None) -> list[str]:
    """What follows from the model and the image, besides the votes."""
    findings: list[str] = []
    error = noise_error(c.noise, c.sigma, image.shape)
    if c.noise_error != error:
        findings.append(f"noise_error: it is {c.noise_error!r}, but for an image of this shape {error!r}.")
    name = None if class_names is None or c.label == ABSTAIN else class_names[c.label]
    if name is not None and c.label_name != name:
        findings.append(f"label_name: it is {c.label_name}, but the model calls class {c.label} {name}.")
    return findings


def _compared(c: Certificate, redrawn: Certificate) -> str:
    """What other counts prove at the same n, in a sentence."""
    selected = selected_class(redrawn)
    if c.expected is not None and (selected == c.expected) == (c.n == 0):
        should = "have gone on" if c.n == 0 else "have been stopped there"
        return f"replay: the selection drawn again chooses class {selected}, so that it should {should}."
    label, _, exact = _answer(redrawn, _plan(redrawn))
    answer = "an abstention" if label == ABSTAIN else f"class {label}"
    shown = round_down(exact)
    if (label, shown) == (c.label, c.radius):
        return f"replay: the counts drawn again give the same label and radius, {answer} and {shown:g}."
    return f"replay: the counts drawn again give {answer} and a radius of {shown:g}, in place of {c.radius:g}."


def _check_counts(c: Certificate) -> list[str]:
    findings: list[str] = []
    if not 0.0 < c.alpha < 1.0:
        findings.append(f"alpha: {c.alpha} is no probability between 0 and 1.")
    for name, value in (("sigma", c.sigma), ("target_radius", c.target_radius), ("tolerance", c.tolerance)):
        if value is not None and not 0.0 < value <= MAX_RADIUS:
            findings.append(f"{name}: {value} is no positive number up to {MAX_RADIUS:g}.")
    if c.schema_version not in (1, SCHEMA_VERSION):
        findings.append(f"schema_version: {c.schema_version} is not known here; use the version that wrote it.")
    if c.schema_version > 1 and (c.bound_requested is None or c.seed_source is None):
        findings.append("bound_requested, seed_source: a certificate of version 2 has both.")
    if not re.fullmatch("[0-9a-f]{32}", c.seed):
        findings.append("seed: it does not have 32 hex digits.")
    if c.k_consensus is not None and c.k_consensus < 1:
        findings.append(f"k_consensus: {c.k_consensus} heads cannot agree.")
    for name, value, least in (("n_max", c.n_max, 1), ("image_index", c.image_index, 0)):
        if not least <= value <= _MOST:
            findings.append(f"{name}: {value} is not between {least} and {_MOST}.")
    if c.redrawn > c.n0:
        findings.append(f"redrawn: of {c.n0} selection noises {c.redrawn} cannot have been drawn again.")
    if len(c.counts) != len(c.selection_counts) or len(c.counts) < 2:
        findings.append("counts: there is not one for each of two or more classes, as in selection_counts.")
    selection_invalid = c.n0 - sum(c.selection_counts) if c.schema_version > 1 else 0
    for name, counts, invalid, total_name, total in (
        ("counts", c.counts, c.invalid, "n", c.n),
        ("selection_counts", c.selection_counts, selection_invalid, "n0", c.n0),
    ):
        least = 0 if name == "counts" and c.stop_reason == "incorrect" else 1
        if min((*counts, invalid)) < 0 or sum(counts) + invalid != total or not least <= total <= _MOST:
            findings.append(f"{name}: with the invalid ones they are not counts that sum to {total_name} = {total}.")
    return findings


def _check_carried(c: Certificate) -> list[str]:
    """Whether the votes of another function can be carried over as they are said to be."""
    if c.carried is None:
        return []
    findings: list[str] = []
    if c.bound != "clopper_pearson":
        findings.append(f"bound: votes are carried over by the bound of one class, not by {c.bound}.")
    if c.looks != 1 or c.n != c.n_max or c.k_consensus is not None:
        findings.append("carried: only the votes of a fixed number of noises, without k_consensus, are carried over.")
    if c.carried.differences > c.carried.pairs or c.carried.pairs > _MOST:
        findings.append(f"carried: of {c.carried.pairs} noises {c.carried.differences} cannot differ.")
    return findings


def _check_noise(c: Certificate) -> list[str]:
    if c.noise == "float":
        return [] if c.noise_error == 0.0 else ["noise_error: floating-point noise has none that could be stated."]
    try:
        table = noise_table(c.sigma)
    except ValueError as error:
        return [f"sigma: there is no such grid noise, since {error}"]
    # The image's size is not in the certificate, so this is the least that it can be: one pixel.
    if not table.total_variation <= c.noise_error <= 1:
        return [f"noise_error: {c.noise_error} is not what the noise table for sigma {c.sigma} allows."]
    return []


def _check_expected(c: Certificate) -> list[str]:
    """Whether a certificate is about the class that was expected, or stopped, without noises, at another one."""
    findings: list[str] = []
    if c.expected is not None and not 0 <= c.expected < len(c.counts):
        findings.append(f"expected: {c.expected} is none of {len(c.counts)} classes.")
    stopped = c.expected is not None and selected_class(c) != c.expected
    if stopped != (c.stop_reason == "incorrect"):
        should = "to stop before the estimation" if stopped else "to go on"
        findings.append(f"stop_reason: it is {c.stop_reason}, but the selection votes and `expected` say {should}.")
    if c.stop_reason == "incorrect" and c.n > 0:
        findings.append(f"n: an image that is stopped as incorrect has none, not {c.n}.")
    return findings


def _rules(c: Certificate) -> Rules:
    early = {"target_radius": c.target_radius, "tolerance": c.tolerance, "deadline": c.deadline_ms is not None}
    rules = Rules(c.sigma, c.n_max, c.alpha, c.bound, len(c.counts), **early, noise_error=c.noise_error)
    return replace(rules, version=c.schema_version)


def _plan(c: Certificate) -> Plan:
    return Plan(_rules(c))


def _looks(c: Certificate, plan: Plan) -> tuple[int, ...]:
    """The looks up to the certificate's n; none where it was stopped before the estimation."""
    return plan.looks[: plan.looks.index(c.n) + 1 if c.n else 0]


def _answer(c: Certificate, plan: Plan) -> tuple[int, float, float]:
    """Label, lower bound and exact radius that the counts prove."""
    if c.n == 0:
        return ABSTAIN, 0.0, 0.0
    selected, top, second = _votes(c)
    if c.carried is not None:
        p_lower = float(carried_lower(top, c.n, c.carried.differences, c.carried.pairs, c.alpha, c.noise_error))
        if p_lower <= 0.5:
            return ABSTAIN, p_lower, 0.0
        return selected, p_lower, float(radius(p_lower, c.sigma))
    proven = plan.prove(c.n, top, second, final=c.n == c.n_max)
    certified = bool(proven.certified)
    return selected if certified else ABSTAIN, float(proven.p_lower), float(proven.radius) if certified else 0.0


def _votes(c: Certificate) -> tuple[int, int, int]:
    """The selected class, its votes, and the most of any other."""
    selected = selected_class(c)
    return selected, *_top_and_second(c.counts, selected)


def _top_and_second(counts: list[int], selected: int) -> tuple[int, int]:
    return counts[selected], max(counts[:selected] + counts[selected + 1 :])


def _check_proof(c: Certificate) -> list[str]:
    plan = _plan(c)
    if c.n > 0 and c.n not in plan.looks:
        why = "is above n_max" if c.n > c.n_max else "is not one of the predetermined looks"
        return [f"n: {c.n} {why}, so no bound holds there."]
    label, p_lower, exact = _answer(c, plan)
    findings: list[str] = []
    requested = c.bound if c.bound_requested is None or c.carried is not None else c.bound_requested
    bound = choose_bound(replace(_rules(c), bound=requested), c.selection_counts, c.n0)
    if c.bound != bound:
        findings.append(f"bound: it is {c.bound}, but {requested} gives {bound}.")
    if c.abstained and c.label_name is not None:
        findings.append(f"label_name: it is {c.label_name}, but an abstention has none.")
    if c.label != label or c.abstained != (label == ABSTAIN):
        said = "an abstention" if c.abstained else f"class {c.label}"
        proven = "none" if label == ABSTAIN else f"class {label}"
        findings.append(f"label: the answer is {said}, but the class that the counts prove is {proven}.")
    if not abs(c.p_lower - p_lower) <= _TOLERANCE:
        findings.append(f"p_lower: it is {c.p_lower!r}, but the counts give {p_lower!r}.")
    if not exact - 10.0**-RADIUS_DIGITS - _TOLERANCE < c.radius <= exact + _TOLERANCE:
        findings.append(f"radius: it is {c.radius!r}, but the counts prove {exact:.9f}, to be rounded down.")
    return findings + _check_stop(c, plan)


def _check_stop(c: Certificate, plan: Plan) -> list[str]:
    looks = len(_looks(c, plan))
    findings = [] if c.looks == looks else [f"looks: there are {looks} up to n = {c.n}, not {c.looks}."]
    if c.n == 0:
        return findings
    _, top, second = _votes(c)
    reason = STOP_CODES.get(int(plan.stop_codes(c.n, top, second, final=c.n == c.n_max)))
    if c.stop_reason in ("deadline", "cancelled") and reason is None and plan.rules.may_stop_early:
        reason = c.stop_reason  # time is up at any look
    if c.stop_reason != reason:
        findings.append(f"stop_reason: it is {c.stop_reason}, but at these counts it is {reason or 'to go on'}.")
    return findings
