"""Draws a run with one engine, in the calling thread."""

from typing import TYPE_CHECKING, Any, TypeVar

from .certification.sampling_run import SamplingRun
from .shards import Image

if TYPE_CHECKING:
    from .engine import Engine

OutcomeT = TypeVar("OutcomeT")

SHARD_SECONDS = 0.2
"""How long a call of the engine takes at most. Chosen: a deadline, looked at between calls, is missed by no more."""


def draw(run: SamplingRun[OutcomeT], engine: "Engine", pixels: Image) -> OutcomeT:
    """The outcome of a run."""
    while not run.done:
        advance(run, engine, pixels)
    return run.outcome()


def advance(run: SamplingRun[Any], engine: "Engine", pixels: Image) -> None:
    """Draw the next shards of a run in one call of the engine, and give their votes back."""
    batches = max(1, int(engine.measured_rate * SHARD_SECONDS / engine.batch))
    shards = run.next_shards(batches * engine.batch)
    if not shards:
        raise RuntimeError("a run that is not done has nothing to draw, though nothing is in flight")
    votes = engine.votes_many([(pixels, shard) for shard in shards])
    for shard, counted in zip(shards, votes, strict=True):
        run.give(shard, counted)
