"""What a certification and a prediction have in common for whoever draws their noises."""

from typing import Protocol, TypeVar

from spacte_workers.shards import Shard, Votes

OutcomeT_co = TypeVar("OutcomeT_co", covariant=True)


class Run(Protocol[OutcomeT_co]):
    """A `Certification` or a `PredictionRun`: hands out shards, takes votes, has an outcome in the end."""

    @property
    def done(self) -> bool:
        """Whether the outcome is settled."""
        ...

    @property
    def surplus(self) -> int:
        """Votes received beyond those that the outcome counts."""
        ...

    def available(self, *, speculate: bool = True) -> int:
        """How many noises could be handed out now."""
        ...

    def next_shards(self, max_size: int, *, speculate: bool = True) -> list[Shard]:
        """The next noises to draw, of at most `max_size` together; empty where there are none now."""
        ...

    def give(self, shard: Shard, votes: Votes) -> bool:
        """Take the votes of a shard; False where they were not awaited. What they settle shows in `done`."""
        ...

    def lost(self, shard: Shard) -> None:
        """The shard went down with its sampler."""
        ...

    def outcome(self) -> OutcomeT_co:
        """The answer; only when `done`."""
        ...
