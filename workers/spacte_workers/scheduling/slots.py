"""The samplers as the coordinator sees them: who has a place free, how fast each is, what it has in hand."""

import math
from collections.abc import Iterator
from typing import Any

from spacte_workers.shards import Sampler, Shard

from .queues import Request

MAX_IN_FLIGHT = 2
"""Engine jobs that a sampler has at a time: one that it works on, one that waits."""

_RATE_MEMORY = 0.3  # weight of the latest job in a sampler's rate
_CAUTION = 0.25  # the first job's share of the usual length, while the rate is only a guess


class EngineJob:
    """What a sampler draws in one call: shards of one or more requests, all of one model.

    Args:
        parts: each request with its shards.
        size: noises in all.
    """

    __slots__ = ("dropped", "parts", "size")

    def __init__(self, parts: list[tuple[Request[Any], list[Shard]]], size: int) -> None:
        self.parts = parts
        self.size = size
        self.dropped = False
        """Whether its sampler has been given up and its shards are handed out again."""

    @property
    def model(self) -> str:
        """The classifier."""
        return self.parts[0][0].model

    @property
    def requests(self) -> list[Request[Any]]:
        """The requests that it serves, each once."""
        return list(dict.fromkeys(request for request, _ in self.parts))


class Slot:
    """One sampler."""

    __slots__ = ("batch", "jobs", "measured", "rate", "sampler")

    def __init__(self, sampler: Sampler, rate: float, batch: int) -> None:
        self.sampler = sampler
        self.rate = rate
        self.batch = batch
        self.measured = False
        self.jobs: set[EngineJob] = set()

    def room(self, seconds: float) -> int:
        """How many noises make a job of this length: full batches, at least one; none in no time."""
        if not self.measured:
            seconds *= _CAUTION
        return max(1, round(self.rate * seconds / self.batch)) * self.batch if seconds > 0.0 else 0

    def learn(self, noises: int, seconds: float, job_seconds: float) -> None:
        """Measure the rate, in rows that are computed, from a job that was neither tiny nor quick."""
        if seconds <= 0.0 or (seconds < job_seconds and 2 * noises < self.room(job_seconds)):
            return
        rate = math.ceil(noises / self.batch) * self.batch / seconds
        self.rate += (_RATE_MEMORY if self.measured else 1.0) * (rate - self.rate)
        self.measured = True


class Slots:
    """All samplers, by how many jobs they have: those without one come first. Everything in constant time."""

    def __init__(self) -> None:
        self._by_id: dict[str, Slot] = {}
        self._free: tuple[dict[Slot, None], ...] = tuple({} for _ in range(MAX_IN_FLIGHT))

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Slot]:
        return iter(list(self._by_id.values()))

    @property
    def idle(self) -> int:
        """How many have no job."""
        return len(self._free[0])

    def get(self, sampler_id: str) -> Slot | None:
        """The sampler of that id."""
        return self._by_id.get(sampler_id)

    def add(self, slot: Slot) -> None:
        """A new sampler, without a job."""
        self._by_id[slot.sampler.id] = slot
        self._free[0][slot] = None

    def remove(self, slot: Slot) -> None:
        """Forget a sampler."""
        del self._by_id[slot.sampler.id]
        for free in self._free:
            free.pop(slot, None)

    def next_free(self) -> Slot | None:
        """A sampler that can take a job, if possible one that has none."""
        return next((slot for free in self._free for slot in free), None)

    def start(self, slot: Slot, job: EngineJob) -> None:
        """The sampler has got a job."""
        del self._free[len(slot.jobs)][slot]
        slot.jobs.add(job)
        if len(slot.jobs) < MAX_IN_FLIGHT:
            self._free[len(slot.jobs)][slot] = None

    def finish(self, slot: Slot, job: EngineJob) -> None:
        """The sampler is done with a job."""
        if len(slot.jobs) < MAX_IN_FLIGHT:
            del self._free[len(slot.jobs)][slot]
        slot.jobs.remove(job)
        self._free[len(slot.jobs)][slot] = None
