"""One prediction, step by step: vote, test the lead of the most frequent class, answer or abstain.

The twin of `certification.py`, with the same hand-out of shards.
"""

from dataclasses import dataclass

from spacte_client.types import ABSTAIN, Noise
from spacte_workers.shards import NoiseSource, Phase, Shard, Votes
from spacte_workers.statistics.top_class import TopClass, predict_looks, top_class_test

from .tally import Tally


@dataclass(frozen=True, slots=True)
class PredictSpec:
    """Everything that determines a prediction besides the image and the classifier.

    Attributes:
        sigma: noise sd in units of [0, 1] pixels.
        num_classes: length of every count vector, at least 2.
        n: the most noises to draw.
        alpha: probability of a wrong answer that is tolerated, in (0, 1).
        noise: `grid` (integer noise on the 1/255 grid) or `float`.
        seed: 32 hex digits.
        image_index: position of the image in its request; enters the noise key.
        k_consensus: heads that must agree for a vote without the others; None runs all heads.
        early_stop: whether to answer before `n` noises, at predetermined looks that share alpha.
    """

    sigma: float
    num_classes: int
    n: int
    alpha: float
    noise: Noise
    seed: str
    image_index: int = 0
    k_consensus: int | None = None
    early_stop: bool = False

    @property
    def noise_source(self) -> NoiseSource:
        """What determines the noises besides their index."""
        return NoiseSource(self.seed, self.image_index, self.sigma, self.noise, self.k_consensus)


@dataclass(frozen=True, slots=True)
class PredictOutcome:
    """The answer to a `PredictSpec`.

    Attributes:
        label: the class, or `ABSTAIN`.
        abstained: whether the lead of the most frequent class was not significant.
        p_value: two-sided binomial test between the two most frequent classes.
        counts: votes per class, summing to `n`.
        n: noises counted.
    """

    label: int
    abstained: bool
    p_value: float
    counts: tuple[int, ...]
    n: int


class PredictionRun:
    """One image on its way to a prediction."""

    def __init__(self, spec: PredictSpec) -> None:
        self.spec = spec
        self._looks = predict_looks(spec.n, spec.alpha, early_stop=spec.early_stop)
        boundaries = [look.n for look in self._looks]
        self._tally = Tally(spec.noise_source, Phase.PREDICTION, boundaries, spec.num_classes)
        self._looks_done = 0
        self._top: TopClass | None = None
        self._abstained: bool | None = None

    @property
    def done(self) -> bool:
        """Whether the outcome is settled; shards still in flight no longer matter."""
        while self._abstained is None and self._looks_done < self._tally.complete:
            self._look()
        return self._abstained is not None

    @property
    def surplus(self) -> int:
        """Votes received beyond the look that decided."""
        return self._tally.drawn - self._looks[self._looks_done - 1].n if self.done else 0

    def available(self, *, speculate: bool = True) -> int:
        """How many noises could be handed out now."""
        return 0 if self.done else self._tally.available(self._limit(speculate))

    def next_shards(self, max_size: int, *, speculate: bool = True) -> list[Shard]:
        """The next noises to draw; empty where nothing is to be handed out now.

        Args:
            max_size: the most noises in all.
            speculate: whether to go past the next look, for samplers without other work.
        """
        return [] if self.done else self._tally.next_shards(max_size, self._limit(speculate))

    def next_shard(self, max_size: int, *, speculate: bool = True) -> Shard | None:
        """Like `next_shards`, but one shard only, or None."""
        return None if self.done else self._tally.next_shard(max_size, self._limit(speculate))

    def give(self, shard: Shard, votes: Votes) -> bool:
        """Take the votes of a shard. Whether they settle the outcome shows in `done`.

        Returns:
            Whether they were awaited: votes that come after the outcome, or twice, change nothing.
        """
        return self._abstained is None and self._tally.give(shard, votes)

    def lost(self, shard: Shard) -> None:
        """The shard went down with its sampler: hand it out again."""
        self._tally.lost(shard)

    def outcome(self) -> PredictOutcome:
        """The answer; only when `done`."""
        if not self.done or self._top is None or self._abstained is None:
            raise RuntimeError("the outcome is asked for before the prediction is done")
        look = self._looks_done - 1
        return PredictOutcome(
            label=ABSTAIN if self._abstained else self._top.label,
            abstained=self._abstained,
            p_value=self._top.p_value,
            counts=self._tally.counts_at(look),
            n=self._looks[look].n,
        )

    def _limit(self, speculate: bool) -> int:
        """How many noises may be handed out by now."""
        ahead = self._tally.complete + (1 if speculate else 0)
        return self._looks[min(ahead, len(self._looks) - 1)].n

    def _look(self) -> None:
        look = self._looks_done
        self._top = top_class_test(self._tally.counts_at(look))
        self._looks_done = look + 1
        if self._top.p_value <= self._looks[look].alpha:
            self._abstained = False
        elif self._looks_done == len(self._looks):
            self._abstained = True
