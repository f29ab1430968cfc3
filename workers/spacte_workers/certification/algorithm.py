"""One certificate, step by step: choose the class, estimate its probability, stop, answer.

A state machine without input or output: it hands out shards of noises, takes their votes back, and decides.
Stopping rules see the votes only at predetermined sample counts (looks) and only once every noise before
the look has been drawn, so the outcome is a function of the specification and the noises alone: not of
timing, of the size or order of the shards, or of who drew them.
"""

from dataclasses import dataclass

from spacte_client.types import ABSTAIN, Bound, Noise, StopReason
from spacte_workers.shards import NoiseSource, Phase, Shard, Votes
from spacte_workers.statistics.stopping import Proven, Rules, plan_for

from .tally import Tally

FIRST_LOT, LEAST_LOT, LOT_GROWTH = 64, 32, 1.25
"""Estimation noises handed out before the first look, and by how many, or how far, later ones reach beyond
the last. Where votes may stop the drawing, noises beyond the look that decides are wasted: a twentieth,
like this. A
single look at a time would leave samplers without work while votes travel."""

FIRST_SPECULATIVE_LOT, SPECULATIVE_GROWTH = 256, 2.0
"""The same, for samplers that would otherwise be idle."""


class DeadlineError(Exception):
    """The deadline passed before the first look at the bound; allow more time."""


@dataclass(frozen=True, slots=True)
class CertifySpec:
    """Everything that determines a certificate besides the image and the classifier.

    Attributes:
        sigma: noise sd in units of [0, 1] pixels.
        num_classes: length of every count vector, at least 2.
        pixels: values in the image, C * H * W.
        n0: selection noises.
        n_max: the most estimation noises.
        alpha: probability of a false certificate that is tolerated, in (0, 1).
        bound: `clopper_pearson` bounds the chosen class alone, `two_class` also the runner-up.
        noise: `grid` (integer noise on the 1/255 grid) or `float`.
        seed: 32 hex digits.
        image_index: position of the image in its request or job; enters the noise key.
        k_consensus: heads that must agree for a vote without the others; None runs all heads.
        target_radius: stop once this L2 radius is shown or shown to be out of reach.
        tolerance: stop when drawing on to `n_max` can add less than this to the radius.
        deadline: whether the certification may be cut short by `Certification.expire`.
        noise_error: total variation between the noise as drawn and the Gaussian over all pixels; 0 for
            float noise.
    """

    sigma: float
    num_classes: int
    pixels: int
    n0: int
    n_max: int
    alpha: float
    bound: Bound
    noise: Noise
    seed: str
    image_index: int = 0
    k_consensus: int | None = None
    target_radius: float | None = None
    tolerance: float | None = None
    deadline: bool = False
    noise_error: float = 0.0

    @property
    def noise_source(self) -> NoiseSource:
        """What determines the noises besides their index."""
        return NoiseSource(self.seed, self.image_index, self.sigma, self.noise, self.k_consensus)

    @property
    def rules(self) -> Rules:
        """What is to be proven, and when to stop trying."""
        return Rules(
            sigma=self.sigma,
            n_max=self.n_max,
            alpha=self.alpha,
            bound=self.bound,
            num_classes=self.num_classes,
            target_radius=self.target_radius,
            tolerance=self.tolerance,
            deadline=self.deadline,
            noise_error=self.noise_error,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to a `CertifySpec`.

    Attributes:
        label: the class, or `ABSTAIN`.
        abstained: whether no class could be certified.
        radius: certified L2 radius, rounded down to 6 digits; 0 when abstained.
        p_lower: lower confidence bound on the probability of the selected class under Gaussian noise.
        n0: selection noises counted.
        n: estimation noises counted.
        counts: estimation votes per class, summing to `n`.
        selection_counts: selection votes per class, summing to `n0`.
        stop_reason: why drawing stopped.
        looks: how often the bound was looked at.
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


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a certification is.

    Attributes:
        samples: estimation noises drawn.
        n_max: the most estimation noises.
        top_label: the selected class; before the selection is complete, the most frequent one so far.
        p_lower: lower bound proven at the last look, 0 before the first.
        radius: radius proven at the last look, 0 before the first.
        looks_done: looks so far.
        standing: the answer that stands if nobody draws on, as of the last look; None before the first.
    """

    samples: int
    n_max: int
    top_label: int
    p_lower: float
    radius: float
    looks_done: int
    standing: Outcome | None


class Certification:
    """One image on its way to a certificate."""

    def __init__(self, spec: CertifySpec) -> None:
        self.spec = spec
        self._plan = plan_for(spec.rules)
        source = spec.noise_source
        self._selection = Tally(source, Phase.SELECTION, (spec.n0,), spec.num_classes)
        self._estimation = Tally(source, Phase.ESTIMATION, self._plan.looks, spec.num_classes)
        self._looks_done = 0
        self._reads_votes = spec.target_radius is not None or spec.tolerance is not None
        self._stop_reason: StopReason | None = None

    @property
    def done(self) -> bool:
        """Whether the outcome is settled; shards still in flight no longer matter."""
        if self._stop_reason is None and self._selection.complete and self._looks_done < self._estimation.complete:
            self._look()
        return self._stop_reason is not None

    @property
    def looks(self) -> tuple[int, ...]:
        """The estimation vote counts at which the bound is looked at."""
        return self._plan.looks

    @property
    def surplus(self) -> int:
        """Votes received beyond the look that decided."""
        return self._estimation.drawn - self._plan.looks[self._looks_done - 1] if self.done else 0

    def available(self, *, speculate: bool = True) -> int:
        """How many noises could be handed out now."""
        if self.done:
            return 0
        return self._selection.available() + self._estimation.available(self._limit(speculate))

    def next_shards(self, max_size: int, *, speculate: bool = True) -> list[Shard]:
        """The next noises to draw; empty where nothing is to be handed out now.

        With a stopping rule shards end at the looks, which are close together at first: an engine job takes
        several.

        Args:
            max_size: the most noises in all.
            speculate: whether to go so far that a part is likely to be wasted; for samplers without other
                work.
        """
        if self.done:
            return []
        shards = self._selection.next_shards(max_size)
        max_size -= sum(shard.size for shard in shards)
        return shards + self._estimation.next_shards(max_size, self._limit(speculate))

    def next_shard(self, max_size: int, *, speculate: bool = True) -> Shard | None:
        """Like `next_shards`, but one shard only, or None."""
        if self.done:
            return None
        limit = self._limit(speculate)
        return self._selection.next_shard(max_size) or self._estimation.next_shard(max_size, limit)

    def give(self, shard: Shard, votes: Votes) -> bool:
        """Take the votes of a shard. Whether they settle the outcome shows in `done`.

        Returns:
            Whether they were awaited: votes that come after the outcome, or twice, change nothing.
        """
        if self._stop_reason is not None:
            return False
        return self._tally(shard).give(shard, votes)

    def lost(self, shard: Shard) -> None:
        """The shard went down with its sampler: hand it out again."""
        self._tally(shard).lost(shard)

    def expire(self) -> None:
        """Time is up: settle for what the last look proved.

        Raises:
            DeadlineError: no look is complete, so nothing is proven yet.
        """
        if self.done:
            return
        if self._looks_done == 0:
            raise DeadlineError(
                "The deadline passed before anything was proven: allow more time, or ask for fewer noises."
            )
        self._stop_reason = "deadline"

    def outcome(self) -> Outcome:
        """The answer; only when `done`."""
        if not self.done or self._stop_reason is None:
            raise RuntimeError("the outcome is asked for before the certification is done")
        return self._at_last_look(self._stop_reason)

    def _at_last_look(self, stop_reason: StopReason) -> Outcome:
        verdict, look = self._verdict(), self._looks_done - 1
        return Outcome(
            label=self._label if verdict.certified else ABSTAIN,
            abstained=not verdict.certified,
            radius=verdict.radius,
            p_lower=verdict.p_lower,
            n0=self.spec.n0,
            n=self._plan.looks[look],
            counts=self._estimation.counts_at(look),
            selection_counts=self._selection.counts_at(0),
            stop_reason=stop_reason,
            looks=self._looks_done,
        )

    def progress(self) -> Progress:
        """How far it is, for showing."""
        settled = self._stop_reason if self.done else "cancelled"
        votes = self._selection.votes_so_far()
        standing = self._at_last_look(settled or "cancelled") if self._looks_done else None
        return Progress(
            samples=self._estimation.drawn,
            n_max=self.spec.n_max,
            top_label=votes.index(max(votes)),
            p_lower=standing.p_lower if standing else 0.0,
            radius=standing.radius if standing else 0.0,
            looks_done=self._looks_done,
            standing=standing,
        )

    @property
    def _label(self) -> int:
        """The class with the most selection votes; ties go to the lowest index."""
        votes = self._selection.counts_at(0)
        return votes.index(max(votes))

    def _limit(self, speculate: bool) -> int:
        """How many estimation noises may be handed out by now."""
        looks, complete = self._plan.looks, self._estimation.complete
        if len(looks) == 1:
            return self.spec.n_max
        seen = looks[complete - 1] if complete else 0
        # With nothing but a deadline all votes are welcome, but the first look must not wait for the last.
        if speculate or not self._reads_votes:
            return max(FIRST_SPECULATIVE_LOT, int(SPECULATIVE_GROWTH * seen))
        return max(FIRST_LOT, seen + LEAST_LOT, int(LOT_GROWTH * seen))

    def _tally(self, shard: Shard) -> Tally:
        return self._selection if shard.phase is Phase.SELECTION else self._estimation

    def _look(self) -> None:
        """Look at the bound wherever that is possible by now, in order, up to the first look that stops."""
        first, complete = self._looks_done, self._estimation.complete
        tops, seconds = zip(*(self._top_and_second(look) for look in range(first, complete)), strict=True)
        stop = self._plan.first_stop(first, tops, seconds)
        if stop is None:
            self._looks_done = complete
        else:
            self._looks_done = stop[0] + 1
            self._stop_reason = stop[1]
        self._estimation.forget(self._looks_done - 1)

    def _top_and_second(self, look: int) -> tuple[int, int]:
        """At a look, the votes of the chosen class and the most of any other."""
        counts, label = self._estimation.counts_at(look), self._label
        return counts[label], max(counts[:label] + counts[label + 1 :])

    def _verdict(self) -> Proven:
        """What the last look proved."""
        look = self._looks_done - 1
        return self._plan.proven(look, *self._top_and_second(look))
