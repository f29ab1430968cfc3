"""One certificate: CERTIFY of Cohen, Rosenfeld and Kolter 2019 (section 3.2.2), in the symbols of their paper.

    1. counts0 = votes of f(x + noise) over n0 noises                     `Certification.counts0`
    2. cAHat   = the class with the most votes in counts0                 `Certification.cAHat`
    3. counts  = votes of f(x + noise) over n other noises                `Certification.counts`
    4. pABar   = LowerConfBound(counts[cAHat], n, 1 - alpha)              `Certification.pABar`
    5. answer cAHat and the radius sigma * Phi^-1(pABar), or ABSTAIN      `Certification.outcome`
       where pABar < 1/2

With probability at least 1 - alpha over the noise, a class that is returned is the smoothed classifier's answer at x
and everywhere closer to x than the radius (Cohen et al., proposition 2).

Step 4 is `statistics.bounds.clopper_pearson_lower`, and step 5 `statistics.bounds.radius`, unless `bound: auto` finds
in counts0 that bounding the second class as well promises more (`statistics.stopping.choose_bound`). A request with a
stopping rule looks at `counts` several times on the way to n. `statistics.stopping.Plan` has the bound that holds at
all of these looks at once: `first_stop` says at which look to stop, `proven` what is shown there. Where the class that
alone counts is known (`CertifySpec.expected`) and cAHat is another one, it ends with an abstention after step 2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

from spacte_client.types import ABSTAIN, Bound, CertifyParams, Noise, Precision, SeedSource, StopReason
from spacte_workers.errors import BadParameterError, DeadlineExceededError
from spacte_workers.noise.table import noise_table
from spacte_workers.shards import NoiseSource, Phase, Shard, Votes
from spacte_workers.statistics.stopping import Plan, Proven, Rules, choose_bound, plan_for

from .redraw import REDRAWN, Redraw
from .sampling_run import SamplingRun
from .tally import Tally

FIRST_LOT, LEAST_LOT, LOT_GROWTH = 64, 32, 1.25
"""Estimation noises handed out before the first look, and by how many, or how far, later ones reach beyond the last.
Chosen: noises beyond the look that decides are wasted, a twentieth of them with these values; with a single look at a
time, samplers would have no work while votes travel."""

FIRST_SPECULATIVE_LOT, SPECULATIVE_GROWTH = 256, 2.0
"""The same for samplers that would otherwise be idle. Chosen: at most half of what is drawn is wasted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifySpec(Rules):
    """Everything that determines a certificate besides the image and the classifier: `Rules`, and the noises.

    Attributes:
        n0: selection noises.
        noise: `grid` (integer noise on the 1/255 grid) or `float`.
        seed: 32 hex digits.
        image_index: position of the image in its request or job; enters the noise key.
        k_consensus: heads that must agree for a vote without the others; None runs all heads.
        seed_source: who chose the seed.
        request_digest: of the canonical request; enters the noise key.
        redrawn: how many of the selection noises are drawn a second time, see `redraw`.
        certify: the arithmetic to certify, where it is not that of the votes, see `carrying`.
        expected: the class without which nothing is to be estimated; None estimates whichever is chosen. It does not
            enter the noise key: it can only turn an answer into an abstention.
    """

    n0: int
    noise: Noise
    seed: str
    image_index: int = 0
    k_consensus: int | None = None
    seed_source: SeedSource = "service"
    request_digest: str = ""
    redrawn: int = 0
    certify: Precision | None = None
    expected: int | None = None

    @classmethod
    def from_params(
        cls,
        params: CertifyParams,
        *,
        sigma: float,
        num_classes: int,
        shape: Sequence[int],
        seed: str,
        seed_source: SeedSource = "service",
        image_index: int = 0,
        expected: int | None = None,
    ) -> "CertifySpec":
        """What a caller asks of a model. It may compute a noise table for a tenth of a second.

        Args:
            params: as on the wire; `n` is the most estimation noises.
            sigma, num_classes: of the model.
            shape: (C, H, W) of the image.
            seed, seed_source, image_index: which noises, and who chose them.
            expected: the class without which nothing is to be estimated, if any.

        Raises:
            BadParameterError: there is no grid noise of this sigma, or `certify` does not go with the other options.
        """
        check_certify(params)
        return cls(
            sigma=sigma,
            num_classes=num_classes,
            n0=params.n0,
            n_max=params.n,
            alpha=params.alpha,
            bound="clopper_pearson" if params.certify else params.bound,
            noise=params.noise,
            seed=seed,
            seed_source=seed_source,
            image_index=image_index,
            k_consensus=params.k_consensus,
            target_radius=params.target_radius,
            tolerance=params.tolerance,
            deadline=params.deadline_ms is not None,
            noise_error=noise_error(params.noise, sigma, shape),
            redrawn=min(params.n0, REDRAWN),
            certify=params.certify,
            expected=expected,
        )

    @property
    def noise_source(self) -> NoiseSource:
        """What determines the noises besides their index."""
        return NoiseSource(self.seed, self.image_index, self.sigma, self.noise, self.k_consensus, self.request_digest)

    @property
    def rules(self) -> Rules:
        """What is to be proven, and when to stop trying."""
        return Rules(**{field.name: getattr(self, field.name) for field in fields(Rules)})


def check_certify(params: CertifyParams) -> None:
    """See that votes of another arithmetic can be carried over, where that is asked for.

    Raises:
        BadParameterError: another option goes against it.
    """
    if params.certify is None:
        return
    others = {
        "target_radius": params.target_radius,
        "tolerance": params.tolerance,
        "deadline_ms": params.deadline_ms,
        "k_consensus": params.k_consensus,
        "bound": params.bound if params.bound == "two_class" else None,
    }
    given = next((name for name, value in others.items() if value is not None), None)
    if given is not None:
        sentence = f"`certify` takes a fixed number of noises and the bound of one class: leave out `{given}`."
        raise BadParameterError("certify", sentence)


def noise_error(noise: Noise, sigma: float, shape: Sequence[int]) -> float:
    """Total variation between the noise as drawn and the Gaussian, over all pixels of an image.

    Raises:
        BadParameterError: there is no grid noise of this sigma.
    """
    if noise == "float":
        return 0.0
    try:
        return noise_table(sigma).total_variation * math.prod(shape)
    except ValueError as error:
        raise BadParameterError("noise", str(error)) from error


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to a `CertifySpec`. Its fields are those of a `Certificate`.

    Attributes:
        label: the class cAHat, or `ABSTAIN`.
        abstained: whether no class could be certified.
        radius: certified L2 radius, rounded down to 6 digits; 0 when abstained.
        p_lower: pABar, the lower confidence bound on the probability of cAHat under Gaussian noise.
        n0, selection_counts: selection noises, and their votes per class; what is missing voted for none.
        n, counts: the same of the estimation noises up to the last look.
        stop_reason: why drawing stopped.
        looks: how often the bound was looked at.
        bound: the one that was used.
        redrawn: selection noises that were drawn a second time, with the same logits.
    """

    label: int
    abstained: bool
    radius: float
    p_lower: float
    n0: int
    n: int
    counts: tuple[int, ...]
    selection_counts: tuple[int, ...]
    stop_reason: StopReason
    looks: int
    bound: Bound = "clopper_pearson"
    redrawn: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a certification is.

    Attributes:
        samples, n_max: estimation noises drawn, and the most.
        top_label: the selected class; before the selection is complete, the most frequent one so far.
        p_lower, radius: proven at the last look, 0 before the first.
        looks_done: looks so far.
        standing: the answer as of the last look, if no more noise is drawn; None before the first.
    """

    samples: int
    n_max: int
    top_label: int
    p_lower: float
    radius: float
    looks_done: int
    standing: Outcome | None


class Certification(SamplingRun[Outcome]):
    """One image on its way to a certificate: the five steps, as the votes come in."""

    def __init__(self, spec: CertifySpec) -> None:
        self.spec = spec
        source = spec.noise_source
        first = spec.redrawn
        boundaries = (first, spec.n0) if 0 < first < spec.n0 else (spec.n0,)
        self._selection = Tally(source, Phase.SELECTION, boundaries, spec.num_classes, with_logits=first)
        self._redraw = Redraw(source, first, spec.num_classes) if first else None
        self._estimation = Tally(source, Phase.ESTIMATION, spec.rules.looks, spec.num_classes)
        self._reads_votes = spec.target_radius is not None or spec.tolerance is not None
        self._stop_reason: StopReason = "cancelled"
        again = [self._redraw.tally] if self._redraw else []
        super().__init__(self._selection, *again, self._estimation)

    @property
    def counts0(self) -> tuple[int, ...]:
        """Step 1: votes per class over the n0 selection noises, once they are drawn."""
        return self._selection.counts_at(len(self._selection.boundaries) - 1)

    @property
    def cAHat(self) -> int:  # noqa: N802  the paper's symbol
        """Step 2: the class with the most selection votes; ties go to the lowest index."""
        return self.counts0.index(max(self.counts0))

    @cached_property
    def bound(self) -> Bound:
        """Which bound it is going to be: as asked, or as the selection votes promise."""
        return choose_bound(self.spec.rules, self.counts0, self.spec.n0)

    @cached_property
    def _plan(self) -> Plan:
        return plan_for(replace(self.spec.rules, bound=self.bound))

    @property
    def counts(self) -> tuple[int, ...]:
        """Step 3: votes per class over the estimation noises up to the last look."""
        if not self._looks_done:
            return (0,) * self.spec.num_classes
        return self._estimation.counts_at(self._looks_done - 1)

    @property
    def pABar(self) -> float:  # noqa: N802  the paper's symbol
        """Step 4: lower confidence bound on the probability of cAHat, as of the last look."""
        return self._proven.p_lower

    def outcome(self) -> Outcome:
        """Step 5: cAHat and its radius, or an abstention; only when `done`."""
        if not self.done:
            raise RuntimeError("the outcome is asked for before the certification is done")
        return self._at_last_look()

    def give(self, shard: Shard, votes: Votes) -> bool:
        """Take the votes of a shard, see `SamplingRun.give`.

        Raises:
            NotOneFunctionError: noises that were drawn again got other logits.
        """
        awaited = super().give(shard, votes)
        if awaited and self._redraw is not None:
            self._redraw.take(shard, votes)
        return awaited

    def expire(self) -> None:
        """Time is up: settle for what the last look proved.

        Raises:
            DeadlineExceededError: no look is complete, so nothing is proven yet.
        """
        if self.done:
            return
        if self._looks_done == 0:
            raise DeadlineExceededError(
                "The deadline passed before anything was proven: allow more time, or ask for fewer noises."
            )
        self._stop_reason, self._settled = "deadline", True

    def progress(self) -> Progress:
        """How far it is, for showing."""
        if not self._settled:
            self._look()
        votes = self._selection.votes_so_far()
        standing = self._at_last_look() if self._looks_done else None
        return Progress(
            samples=self._estimation.drawn,
            n_max=self.spec.n_max,
            top_label=votes.index(max(votes)),
            p_lower=standing.p_lower if standing else 0.0,
            radius=standing.radius if standing else 0.0,
            looks_done=self._looks_done,
            standing=standing,
        )

    def _at_last_look(self) -> Outcome:
        proven = self._proven
        return Outcome(
            label=self.cAHat if proven.certified else ABSTAIN,
            abstained=not proven.certified,
            radius=proven.radius,
            p_lower=self.pABar,
            n0=self.spec.n0,
            n=self._n,
            counts=self.counts,
            selection_counts=self.counts0,
            stop_reason=self._stop_reason,
            looks=self._looks_done,
            bound=self.bound,
            redrawn=self.spec.redrawn,
        )

    def _look(self) -> None:
        """Look at the bound wherever that is possible by now, in order, up to the first look that stops."""
        first, complete = self._looks_done, self._estimation.complete
        redrawn = self._redraw is None or self._redraw.tally.finished
        if not (self._selection.finished and redrawn):
            return
        if self.spec.expected not in (None, self.cAHat):
            self._stop_reason, self._settled = "incorrect", True
            return
        if first == complete:
            return
        tops, seconds = zip(*(self._top_and_second(look) for look in range(first, complete)), strict=True)
        stop = self._plan.first_stop(first, tops, seconds)
        if stop is None:
            self._looks_done = complete
        else:
            self._looks_done, self._stop_reason, self._settled = stop[0] + 1, stop[1], True
        self._estimation.forget(self._looks_done - 1)

    def _top_and_second(self, look: int) -> tuple[int, int]:
        """At a look, the votes of cAHat and the most of any other class."""
        counts, cAHat = self._estimation.counts_at(look), self.cAHat
        return counts[cAHat], max(counts[:cAHat] + counts[cAHat + 1 :])

    @property
    def _proven(self) -> Proven:
        """Steps 4 and 5 in numbers: what the last look proved; before the first, nothing."""
        if not self._looks_done:
            return Proven(p_lower=0.0, certified=False, radius=0.0)
        look = self._looks_done - 1
        return self._plan.proven(look, *self._top_and_second(look))

    @property
    def left(self) -> int:
        """How many noises have not been handed out yet; with a deadline, first only those up to the first look.

        So that a deadline is met by some certificate, whatever else the samplers have to do.
        """
        if not self.spec.deadline or self._looks_done:
            return super().left
        before = (tally for tally in self._tallies.values() if tally is not self._last)
        return sum(tally.left for tally in before) + self.looks[0]

    def _open(self, speculate: bool) -> list[tuple[Tally, int]]:
        """As for any run; but noises are drawn again only in a later call, so that they have other neighbours."""
        first_drawn = self._selection.complete > 0
        return [(tally, limit) for tally, limit in super()._open(speculate) if first_drawn or not tally.again]

    def _limit(self, speculate: bool) -> int:
        """How many estimation noises may be handed out by now."""
        if self.spec.expected is not None and not (self._selection.finished and self.cAHat == self.spec.expected):
            return 0
        complete = self._estimation.complete
        if len(self.looks) == 1:
            return self.spec.n_max
        seen = self.looks[complete - 1] if complete else 0
        # With nothing but a deadline all votes are welcome, but the first look must not wait for the last.
        if speculate or not self._reads_votes:
            return max(FIRST_SPECULATIVE_LOT, int(SPECULATIVE_GROWTH * seen))
        return max(FIRST_LOT, seen + LEAST_LOT, int(LOT_GROWTH * seen))
