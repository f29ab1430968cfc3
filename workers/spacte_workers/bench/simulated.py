"""Samplers without a network: votes from known class probabilities, after the time real ones would take."""

import asyncio
from collections.abc import Sequence

import numpy as np

from spacte_workers.shards import Image, SamplerLostError, SampleTask, Shard, Votes


def simulated_votes(shard: Shard, probabilities: Sequence[float]) -> tuple[int, ...]:
    """Votes of a shard, drawn with the given class probabilities.

    Like real ones they are a function of the shard alone, and the votes of 0..9 are those of 0..4 plus 5..9: vote j
    comes from the j-th number of a stream keyed by seed, image and phase.

    Args:
        shard: which votes.
        probabilities: one per class, summing to 1.
    """
    key = (int(shard.source.seed, 16) ^ (shard.source.image_index << 8 | shard.phase)) % 2**128
    # Philox makes four numbers a step.
    bits = np.random.Philox(key=key)
    bits.advance(shard.start // 4)
    u = np.random.Generator(bits).random(shard.start % 4 + shard.size)[shard.start % 4 :]
    edges = np.cumsum(probabilities)[:-1]
    classes = np.searchsorted(edges, u, side="right")
    return tuple(np.bincount(classes, minlength=len(probabilities)).tolist())


class SimulatedSampler:
    """A sampler that takes its time and then votes.

    An image's bytes are its class probabilities, as float64.

    Args:
        sampler_id: a name.
        rate: noises a second.
        overhead_s: time that a call costs on top, as a Ray actor's does.
    """

    def __init__(self, sampler_id: str, rate: float, overhead_s: float = 0.0) -> None:
        self.id = sampler_id
        self._rate = rate
        self._overhead_s = overhead_s
        self._turn = asyncio.Lock()
        self._lost: asyncio.Future[None] | None = None
        self.busy_s = 0.0
        """Time spent drawing."""
        self.calls = 0

    def kill(self) -> None:
        """End every call, now and from now on, with `SamplerLostError`."""
        self._gone().cancel()

    async def sample_many(self, model: str, tasks: Sequence[SampleTask]) -> list[Votes]:  # noqa: ARG002
        """Draw the shards, one call after the other."""
        self.calls += 1
        async with self._turn:
            seconds = sum(task.shard.size for task in tasks) / self._rate
            await asyncio.wait({self._gone()}, timeout=seconds + self._overhead_s)
            if self._gone().done():
                raise SamplerLostError(f"{self.id} is gone")
            self.busy_s += seconds
            return [
                Votes(simulated_votes(task.shard, probabilities(task.image)), task.shard.size / self._rate)
                for task in tasks
            ]

    def _gone(self) -> asyncio.Future[None]:
        if self._lost is None:
            self._lost = asyncio.get_running_loop().create_future()
        return self._lost


def probabilities(image: Image) -> list[float]:
    """The class probabilities of a simulated image."""
    return np.frombuffer(image.data, np.float64).tolist()


def simulated_image(probabilities: Sequence[float]) -> Image:
    """An image for `SimulatedSampler` whose votes have these class probabilities."""
    values = np.asarray(probabilities, np.float64)
    return Image(values.tobytes(), (1, 1, len(probabilities)), "float32")
