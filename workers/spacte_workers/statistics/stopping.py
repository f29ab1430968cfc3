"""When to stop drawing, and what is proven then: the looks, the bound valid at each of them, the stopping rules.

Without a stopping rule there is one look, at n_max, with the whole alpha (Cohen et al. 2019, section 3.2.2). With any
rule alpha is shared, by the union bound. In general one half is for a Beta-mixture confidence sequence, valid at every
look however it was chosen, the other for one Clopper-Pearson bound at n_max. Where a target is the only rule, and the
bound that of one class, most of alpha is for the boundaries of that target (`target_boundaries.py`), and the sequence
and the final bound share what is left. `bound: two_class` splits each half once more, between
a lower bound on the chosen class A and an upper bound on the largest of the others. The upper bound needs no correction
for the number of classes: it grows with the votes, and the truly second class has at most as many votes as the class
that was counted second.

Looks are at predetermined vote counts, so the answer never depends on timing.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr  # pyright: ignore[reportMissingTypeStubs]

from spacte_client.rounding import round_down, round_up
from spacte_client.types import Bound, RequestedBound, StopReason

from .bounds import LARGEST_P, FloatArray, broadcast, clopper_pearson_lower, radius, two_class_radius
from .sequences import log_mixture, mixture_lower
from .target_boundaries import LEAST_LEVEL, TargetBoundaries

BoolArray = NDArray[np.bool_]

FUTILITY_LEVEL = 1e-4
"""Beta: probability of giving up, falsely, on a target within reach. Chosen: it costs no certificate its truth, and at
1e-4 giving up wrongly is rarer than a false certificate at the default alpha."""

FIRST_LOOK, LEAST_STEP, GROWTH = 16, 16, 1.1
"""The looks: 16, 32, ... by steps of 16, then each a tenth further than the last, ending at n_max. Chosen: looking at
every single vote would save some 5 % of the samples, for a hundred times the looks."""

SPENT_ON_TARGET, SPENT_ON_SEQUENCE = 0.8, 0.05
"""Parts of alpha for the boundaries of a target and for the sequence beside them; the rest is for the final bound.
Chosen: the mean noises of `spacte bench samples`; the sequence only says what is proven short of the target."""

_PROVEN_KEPT = 4_096
"""Results of looks that a plan keeps. Chosen: less than a megabyte, and the images of a job share most of them."""

_BOUNDS: tuple[Bound, ...] = ("clopper_pearson", "two_class")
_GO_ON, _TARGET, _FUTILITY, _N_MAX, _TOLERANCE, _UNPROVABLE = range(6)  # any six numbers
STOP_CODES: dict[int, StopReason] = {
    _TARGET: "target",
    _FUTILITY: "futility",
    _N_MAX: "n_max",
    _TOLERANCE: "tolerance",
    _UNPROVABLE: "unprovable",
}
"""What the codes of `Plan.stop_codes` mean; 0 is to go on."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What is to be proven about one image, and when to stop trying.

    Attributes:
        sigma: noise sd in units of [0, 1] pixels.
        n_max: the most estimation votes.
        alpha: probability of a false certificate that is tolerated, in (0, 1).
        bound: `clopper_pearson` bounds the chosen class alone, `two_class` also the runner-up; `auto` leaves the choice
            to `choose_bound`, and must have been made before there is a plan.
        num_classes: classes, at least 2.
        target_radius: stop once this radius is shown, is out of reach, or cannot be shown within `n_max` any more.
        tolerance: stop when drawing on to `n_max` can add less than this to the radius.
        deadline: whether drawing may be cut short at any look for reasons of time.
        noise_error: total variation between the noise as drawn and the Gaussian, over all pixels; it is
            taken off every lower bound and added to every upper one. 0 for float noise.
        version: of the certificate. Version 1 knows no boundaries of a target and gives `futility` as the reason for
            targets that are `unprovable`, too.
    """

    sigma: float
    n_max: int
    alpha: float
    bound: RequestedBound
    num_classes: int
    target_radius: float | None = None
    tolerance: float | None = None
    deadline: bool = False
    noise_error: float = 0.0
    version: int = 2

    @property
    def may_stop_early(self) -> bool:
        """Whether there is any stopping rule."""
        return self.deadline or self.target_radius is not None or self.tolerance is not None

    @property
    def looks(self) -> tuple[int, ...]:
        """The vote counts to look at, ascending, ending at `n_max`."""
        return look_schedule(self.n_max) if self.may_stop_early else (self.n_max,)

    @property
    def spends_exactly(self) -> bool:
        """Whether most of alpha goes to the boundaries of a target."""
        target_alone = self.target_radius is not None and self.tolerance is None and not self.deadline
        return self.version > 1 and target_alone and self.bound == "clopper_pearson" and self.alpha >= LEAST_LEVEL


@dataclass(frozen=True, slots=True)
class Proven:
    """What the votes up to a look prove.

    Attributes:
        p_lower: lower bound on the probability of the chosen class under exact Gaussian noise.
        certified: whether the chosen class is proven to be the answer.
        radius: certified L2 radius, rounded down; 0 unless certified.
    """

    p_lower: float
    certified: bool
    radius: float


@dataclass(frozen=True, slots=True)
class ProvenArrays:
    """What many vote counts prove at one look: arrays of one shape. `radius` is exact, not rounded."""

    p_lower: FloatArray
    radius: FloatArray
    certified: BoolArray


def look_schedule(n_max: int) -> tuple[int, ...]:
    """The vote counts at which a request with a stopping rule is looked at, ascending, ending at `n_max`."""
    looks: list[int] = []
    n = FIRST_LOOK
    while n < n_max:
        looks.append(n)
        n = max(n + LEAST_STEP, math.ceil(n * GROWTH))
    return (*looks, n_max)


class Plan:
    """The looks of one certificate and what to conclude at each.

    One plan serves every image with the same rules (`plan_for`). Where the votes of the chosen class alone decide, it
    remembers at each look between which votes it went on, from which the target was shown and up to which it was out of
    reach. All three are intervals, so most looks of a long job cost two comparisons.
    """

    def __init__(self, rules: Rules) -> None:
        if rules.bound == "auto":
            raise ValueError("the bound has to be chosen before there is a plan")
        self.rules = rules
        self.looks = rules.looks
        shares = (2 if rules.may_stop_early else 1) * (2 if rules.bound == "two_class" else 1)
        self._level = self._final_level = rules.alpha / shares
        self._boundaries: TargetBoundaries | None = None
        # A target counts as shown when the radius that is written down, rounded, reaches it.
        self._goal = None if rules.target_radius is None else round_up(rules.target_radius)
        if self._goal is not None:
            self._goal_p, self._goal_q = (float(ndtr(side * self._goal / rules.sigma)) for side in (1, -1))
            if rules.spends_exactly and self._goal_p + rules.noise_error < LARGEST_P:
                level = rules.alpha * SPENT_ON_TARGET
                self._boundaries = TargetBoundaries(self._goal_p + rules.noise_error, self.looks, level)
                self._level = rules.alpha * SPENT_ON_SEQUENCE
                self._final_level = rules.alpha * (1.0 - SPENT_ON_TARGET - SPENT_ON_SEQUENCE)
            self._final_votes = self._votes_for_target(self._goal)
        self._proven = lru_cache(_PROVEN_KEPT)(self._proven_at)
        self._memory: list[_LookMemory] | None = None
        if rules.bound == "clopper_pearson" and rules.tolerance is None:
            self._memory = [_LookMemory(n) for n in self.looks]

    def first_stop(self, look: int, tops: Sequence[int], seconds: Sequence[int]) -> tuple[int, StopReason] | None:
        """The first of the looks `look`, `look` + 1, ... to stop at and why, or None to go on after all of them.

        Args:
            look: index of the first look.
            tops: at each look, the votes of the chosen class.
            seconds: at each look, the most votes of any other class.
        """
        last, end = len(self.looks) - 1, look + len(tops)
        unknown: list[int] = []
        stop: tuple[int, StopReason] | None = None
        if self.rules.target_radius is not None or self.rules.tolerance is not None:
            for k in range(look, min(end, last)):
                code = self._memory[k].code(tops[k - look]) if self._memory else None
                if code is None:
                    unknown.append(k)
                elif code:
                    stop = (k, STOP_CODES[code])
                    break
        if unknown:
            votes = ((self.looks[k], tops[k - look], seconds[k - look]) for k in unknown)
            n, top, second = zip(*votes, strict=True)
            codes: list[int] = self.stop_codes(n, top, second, final=False).tolist()
            for k, code in zip(unknown, codes, strict=True):
                if self._memory:
                    self._memory[k].learn(tops[k - look], code)
                if code:
                    return k, STOP_CODES[code]
        if stop is None and end > last:
            code = int(self.stop_codes(self.looks[last], tops[-1], seconds[-1], final=True))
            stop = (last, STOP_CODES[code])
        return stop

    def proven(self, look: int, top: int, second: int) -> Proven:
        """What the votes up to look number `look` prove about the chosen class.

        Args:
            look: index of the look.
            top: votes of the chosen class.
            second: the most votes of any other class.
        """
        return self._proven(look, top, second if self.rules.bound == "two_class" else 0)

    def _proven_at(self, look: int, top: int, second: int) -> Proven:
        found = self.prove(self.looks[look], top, second, final=look == len(self.looks) - 1)
        certified = bool(found.certified)
        return Proven(float(found.p_lower), certified, round_down(float(found.radius)) if certified else 0.0)

    def prove(self, n: ArrayLike, top: ArrayLike, second: ArrayLike, *, final: bool) -> ProvenArrays:
        """Bound and radius after `n` votes, from those of the chosen class and the most of any other.

        Takes numbers or arrays; either all of `n` are n_max (`final`) or none.
        """
        rules = self.rules
        votes, s, runner_up = broadcast(n, top, second)
        # At one and the same level Clopper-Pearson is never below the mixture: no bound for a fixed n is better.
        lower, level = (clopper_pearson_lower, self._final_level) if final else (mixture_lower, self._level)
        if rules.bound == "clopper_pearson":
            p_lower = np.maximum(lower(s, votes, level) - rules.noise_error, 0.0)
            reached = radius(p_lower, rules.sigma)
            if self._boundaries and self._goal and not final:  # what a boundary shows is the target
                shown = s >= self._boundary_votes(votes)
                p_lower = np.where(shown, np.maximum(p_lower, self._goal_p), p_lower)
                reached = np.where(shown, np.maximum(reached, self._goal), reached)
            return ProvenArrays(p_lower, reached, p_lower >= 0.5)
        # An upper bound on the runner-up is a lower bound on everything else; both in one call.
        a, not_b = lower(np.stack((s, votes - runner_up)), votes, level) - rules.noise_error
        p_lower = np.maximum(a, 0.0)
        reached = two_class_radius(p_lower, 1.0 - not_b, rules.sigma)
        return ProvenArrays(p_lower, reached, reached > 0.0)

    def stop_codes(self, n: ArrayLike, top: ArrayLike, second: ArrayLike, *, final: bool) -> NDArray[np.int8]:
        """Why to stop after `n` votes, as indices of `STOP_CODES`. Arguments as for `prove`."""
        rules = self.rules
        codes = np.full(np.broadcast(n, top, second).shape, _N_MAX if final else _GO_ON, np.int8)
        if rules.tolerance is not None and not final:
            reached = self.prove(n, top, second, final=False).radius
            gain = self._at_end(n, top, second, *self._plausible(n, top, second)) - reached
            codes[gain < rules.tolerance] = _TOLERANCE
        if self._goal is not None:
            unprovable, futile, shown = (
                self._one_class_target(n, top, final=final)
                if rules.bound == "clopper_pearson"
                else self._two_class_target(n, top, second, self._goal, final=final)
            )
            codes[unprovable] = _UNPROVABLE if rules.version > 1 else _FUTILITY
            codes[futile] = _FUTILITY
            codes[shown] = _TARGET
        return codes

    def _boundary_votes(self, n: FloatArray) -> FloatArray:
        """The fewest votes that show the target, at each of these looks but the last."""
        if self._boundaries is None:
            return n + 1.0
        looks, which = np.unique(np.searchsorted(self.looks, n), return_inverse=True)
        return np.array([float(self._boundaries.votes(look)) for look in looks])[which].reshape(n.shape)

    def _one_class_target(self, n: ArrayLike, top: ArrayLike, *, final: bool) -> tuple[BoolArray, BoolArray, BoolArray]:
        """Whether the votes left cannot show the target, whether it is out of reach, and whether it is shown.

        The bound is compared with the probability that the target takes, so its root need not be found.
        """
        votes, s = broadcast(n, top)
        p, q, noise = self._goal_p, self._goal_q, self.rules.noise_error
        futile = self._evident(votes - s, votes, q + noise, FUTILITY_LEVEL)
        if final:
            return np.zeros_like(futile), futile, s >= self._final_votes
        unprovable = s + (self.rules.n_max - votes) < self._final_votes
        shown = self._evident(s, votes, p + noise, self._level)
        return unprovable, futile, shown | (s >= self._boundary_votes(votes)) if self._boundaries else shown

    @staticmethod
    def _evident(s: FloatArray, n: FloatArray, p0: float, level: float) -> BoolArray:
        """Whether `s` of `n` votes reject the probability `p0` and all below it."""
        if p0 >= LARGEST_P:
            return np.zeros(s.shape, np.bool_)
        return (s > n * p0) & (log_mixture(s, n, p0) >= -math.log(level))

    def _two_class_target(
        self, n: ArrayLike, top: ArrayLike, second: ArrayLike, goal: float, *, final: bool
    ) -> tuple[BoolArray, BoolArray, BoolArray]:
        """Whether the votes left cannot show the target, whether it is out of reach, and whether it is shown."""
        p_upper, second_lower = self._plausible(n, top, second)
        highest = two_class_radius(
            p_upper + self.rules.noise_error, np.maximum(second_lower - self.rules.noise_error, 0.0), self.rules.sigma
        )
        at_end = highest if final else self._at_end(n, top, second, 1.0, 0.0)
        return at_end < goal, highest < goal, self.prove(n, top, second, final=final).radius >= goal

    def _plausible(self, n: ArrayLike, top: ArrayLike, second: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """The highest chosen-class and the lowest runner-up probability that the votes leave plausible.

        Together they hold at every look with probability 1 - `FUTILITY_LEVEL`. That some class is the second only by
        its votes costs a factor K - 1. Version 1 took it to have at least the mean of the other classes, too, which
        overlooks that rows may vote for none.
        """
        votes, s, runner_up = broadcast(n, top, second)
        if self.rules.bound == "clopper_pearson":
            upper = 1.0 - mixture_lower(votes - s, votes, FUTILITY_LEVEL)
            return upper, np.zeros_like(upper)
        others = self.rules.num_classes - 1
        levels = np.array([FUTILITY_LEVEL / 2, FUTILITY_LEVEL / (2 * others)])
        not_a, b = mixture_lower(np.stack((votes - s, runner_up)), votes, levels.reshape(2, *(1 for _ in votes.shape)))
        return 1.0 - not_a, np.maximum(b, not_a / others) if self.rules.version == 1 else b

    def _votes_for_target(self, goal: float) -> int:
        """The fewest votes for the chosen class that can show the target at n_max; n_max + 1 if none can."""
        n_max = self.rules.n_max

        def shown(votes: int) -> bool:
            return float(self.prove(n_max, votes, 0, final=True).radius) >= goal

        return bisect_left(range(n_max + 1), x=True, key=shown)

    def _at_end(
        self, n: ArrayLike, top: ArrayLike, second: ArrayLike, top_rate: ArrayLike, second_rate: ArrayLike
    ) -> FloatArray:
        """The radius at n_max if the votes from here on went to the two classes at these rates."""
        n_max = self.rules.n_max
        votes, s, runner_up, rate, runner_up_rate = broadcast(n, top, second, top_rate, second_rate)
        remaining = n_max - votes
        final_top = s + remaining * rate
        final_second = np.minimum(runner_up + remaining * runner_up_rate, n_max - final_top)
        return self.prove(n_max, final_top, final_second, final=True).radius


@lru_cache(maxsize=256)
def plan_for(rules: Rules) -> Plan:
    """The plan for these rules, shared by all images that have them."""
    return Plan(rules)


def choose_bound(rules: Rules, selection_counts: Sequence[int], n0: int) -> Bound:
    """The bound that `auto` stands for: the one that promises the larger radius at n_max, in a tie that of one class.

    The promise is that of a fixed n if the estimation votes fell as the selection votes did. Those are independent of
    the estimation votes, so that the choice costs no alpha.

    Args:
        rules: with the bound that was asked for.
        selection_counts: votes per class over the `n0` selection noises.
        n0: selection noises, with those that voted for no class.
    """
    if rules.bound != "auto":
        return rules.bound
    second, top = sorted(selection_counts)[-2:]
    scale = rules.n_max / n0
    promised: dict[Bound, float] = {}
    for bound in _BOUNDS:
        fixed = replace(rules, bound=bound, target_radius=None, tolerance=None, deadline=False)
        promised[bound] = float(plan_for(fixed).prove(rules.n_max, scale * top, scale * second, final=True).radius)
    return "two_class" if promised["two_class"] > promised["clopper_pearson"] else "clopper_pearson"


class _LookMemory:
    """What is known of one look of a plan: between which votes of the chosen class each stop code was found.

    Each code's votes are an interval, from 0 for futility and up to all for the target.
    """

    __slots__ = ("_known", "_n")

    def __init__(self, n: int) -> None:
        self._n = n
        self._known: dict[int, tuple[int, int]] = {}

    def code(self, top: int) -> int | None:
        """The stop code, or None where it is not known yet."""
        return next((code for code, (low, high) in self._known.items() if low <= top <= high), None)

    def learn(self, top: int, code: int) -> None:
        """Remember the stop code of `top` and what it says of its neighbours."""
        low, high = self._known.get(code, (top, top))
        low, high = (0 if code == _FUTILITY else min(low, top)), (self._n if code == _TARGET else max(high, top))
        self._known[code] = low, high
