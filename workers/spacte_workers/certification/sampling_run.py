"""What a certification and a prediction have in common: hand out shards of noises, take votes back, look, answer."""

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from spacte_workers.shards import NoiseSource, Phase, Shard, Votes

from .tally import Tally

OutcomeT = TypeVar("OutcomeT")


class SamplingRun(ABC, Generic[OutcomeT]):
    """One image on its way to an answer: a state machine without input or output.

    Decisions see the votes only at predetermined sample counts (looks), and only once every noise before the look has
    been drawn. So the outcome is a function of the specification and the noises alone: not of timing, of the size or
    order of the shards, or of who drew them.

    Args:
        tallies: the votes of each phase, in the order in which they are drawn. The boundaries of the last are the
        looks.
    """

    def __init__(self, *tallies: Tally) -> None:
        self._tallies = {(tally.phase, tally.again): tally for tally in tallies}
        self._last = tallies[-1]
        self._looks_done = 0
        self._settled = False

    @property
    def done(self) -> bool:
        """Whether the outcome is settled; shards still in flight no longer matter."""
        if not self._settled:
            self._look()
        return self._settled

    @property
    def looks(self) -> tuple[int, ...]:
        """The vote counts at which the votes are looked at."""
        return self._last.boundaries

    @property
    def surplus(self) -> int:
        """Votes received beyond the look that decided."""
        return self._last.drawn - self._n if self.done else 0

    @property
    def _n(self) -> int:
        """Votes of the last phase up to the last look; 0 before the first."""
        return self.looks[self._looks_done - 1] if self._looks_done else 0

    @property
    def left(self) -> int:
        """How many noises have not been handed out yet, at most: a stopping rule may end it before."""
        return sum(tally.left for tally in self._tallies.values())

    @property
    def drawn(self) -> int:
        """Noises whose votes are in."""
        return sum(tally.drawn for tally in self._tallies.values())

    def available(self, *, speculate: bool = True) -> int:
        """How many noises could be handed out now."""
        return sum(tally.available(limit) for tally, limit in self._open(speculate))

    def next_shards(self, max_size: int, *, speculate: bool = True) -> list[Shard]:
        """The next noises to draw; empty where nothing is to be handed out now.

        Shards end at the looks, which may be close together: a call to a sampler takes several.

        Args:
            max_size: the most noises in all.
            speculate: whether to go so far that a part is likely to be wasted; for samplers without other work.
        """
        shards: list[Shard] = []
        for tally, limit in self._open(speculate):
            shards += tally.next_shards(max_size - sum(shard.size for shard in shards), limit)
        return shards

    def give(self, shard: Shard, votes: Votes) -> bool:
        """Take the votes of a shard. Whether they settle the outcome shows in `done`.

        Returns:
            Whether they were awaited: votes that come after the outcome, or twice, change nothing.
        """
        return not self._settled and self._tallies[shard.phase, shard.again].give(shard, votes)

    def lost(self, shard: Shard) -> None:
        """The sampler is gone with this shard: hand it out again."""
        self._tallies[shard.phase, shard.again].lost(shard)

    @abstractmethod
    def outcome(self) -> OutcomeT:
        """The answer; only when `done`."""

    @abstractmethod
    def _look(self) -> None:
        """Look wherever all noises before a look have been drawn, and settle the outcome where that decides it."""

    @abstractmethod
    def _limit(self, speculate: bool) -> int:
        """How many noises of the last phase may be handed out by now."""

    def _open(self, speculate: bool) -> list[tuple[Tally, int]]:
        """The tallies to draw for, and how many noises of each may be handed out by now."""
        if self.done:
            return []
        return [
            (tally, self._limit(speculate) if tally is self._last else tally.boundaries[-1])
            for tally in self._tallies.values()
        ]


class SingleLookRun(SamplingRun[OutcomeT]):
    """One image on its way to what all of `n` noises give together."""

    def __init__(self, source: NoiseSource, phase: Phase, n: int, num_classes: int) -> None:
        super().__init__(Tally(source, phase, [n], num_classes))
        self._parts: dict[int, Votes] = {}

    def give(self, shard: Shard, votes: Votes) -> bool:
        """Take the votes of a shard, and what came with them; False where they are not awaited."""
        awaited = super().give(shard, votes)
        if awaited:
            self._parts[shard.start] = votes
        return awaited

    @property
    def parts(self) -> list[Votes]:
        """What came of each shard, in the order of the noises; only when `done`."""
        return [self._parts[start] for start in sorted(self._parts)]

    @property
    def counts(self) -> tuple[int, ...]:
        """Votes per class; only when `done`."""
        return self._last.counts_at(0)

    def _look(self) -> None:
        self._looks_done = self._last.complete
        self._settled = self._looks_done == 1

    def _limit(self, speculate: bool) -> int:  # noqa: ARG002
        return self.looks[-1]
