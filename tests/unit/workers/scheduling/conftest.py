"""What the coordinator's tests share: an image with known probabilities, and samplers that draw its votes."""

import asyncio
from collections.abc import Sequence

from spacte_workers.bench.simulated import probabilities, simulated_image, simulated_votes
from spacte_workers.certification.algorithm import Certification, CertifySpec, Outcome
from spacte_workers.shards import SamplerLostError, SampleTask, Votes

PROBABILITIES = (0.1, 0.8, 0.1)
IMAGE = simulated_image(PROBABILITIES)


def spec(index: int = 0, **changes) -> CertifySpec:
    """A certificate for the image at this index."""
    settings = {
        "sigma": 0.5,
        "num_classes": 3,
        "n0": 50,
        "n_max": 2_000,
        "alpha": 0.001,
        "bound": "clopper_pearson",
        "noise": "grid",
        "seed": "e" * 32,
        "image_index": index,
    }
    return CertifySpec(**{**settings, **changes})


def without_coordinator(one: CertifySpec) -> Outcome:
    """What a coordinator should find."""
    run = Certification(one)
    while not run.done:
        for shard in run.next_shards(500):
            run.give(shard, Votes(simulated_votes(shard, PROBABILITIES), 0.0))
    return run.outcome()


class SimulatedSampler:
    """Draws so many noises a second, one call after the other."""

    def __init__(self, sampler_id: str, rate: float) -> None:
        self.id = sampler_id
        self._rate = rate
        self._turn = asyncio.Lock()
        self._lost = asyncio.get_running_loop().create_future()

    def kill(self) -> None:
        """End every call, now and from now on, with `SamplerLostError`."""
        self._lost.cancel()

    async def sample_many(self, model: str, tasks: Sequence[SampleTask]) -> list[Votes]:
        async with self._turn:
            await asyncio.wait({self._lost}, timeout=sum(task.shard.size for task in tasks) / self._rate)
            if self._lost.done():
                raise SamplerLostError(f"{self.id} is gone")
            return [
                Votes(simulated_votes(task.shard, probabilities(task.image)), task.shard.size / self._rate)
                for task in tasks
            ]


class Counting:
    """A sampler that answers at once and keeps a list of what it was given."""

    def __init__(self, sampler_id: str = "counting") -> None:
        self.id = sampler_id
        self.calls: list[list[SampleTask]] = []
        self.at_a_time = self.most_at_a_time = 0
        self.gate: asyncio.Event | None = None
        """Calls wait for it."""
        self.poison: int | None = None
        """The `image_index` of a request whose calls fail."""
        self.noise_s = 1e-5
        """How long it says that a noise took."""

    async def sample_many(self, model: str, tasks: Sequence[SampleTask]) -> list[Votes]:
        self.calls.append(list(tasks))
        self.at_a_time += 1
        self.most_at_a_time = max(self.most_at_a_time, self.at_a_time)
        try:
            await asyncio.sleep(0)
            if self.gate:
                await self.gate.wait()
            if self.poison in [item.shard.source.image_index for item in tasks]:
                raise RuntimeError("out of memory")
            return [Votes(simulated_votes(w.shard, PROBABILITIES), w.shard.size * self.noise_s) for w in tasks]
        finally:
            self.at_a_time -= 1

    def indices(self) -> list[set[int]]:
        """The `image_index` of every request in each call."""
        return [{item.shard.source.image_index for item in call} for call in self.calls]
