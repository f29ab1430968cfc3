"""The samplers as the coordinator sees them: who can take a call, how fast each is, what it works on."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

from spacte_workers.shards import Sampler, SampleTask, Shard

from .queues import Request

MAX_IN_FLIGHT = 2
"""Calls that a sampler has at a time. Chosen: one that it works on and one that waits, so it never waits itself."""

_RATE_MEMORY = 0.3  # chosen: weight of the latest call in a sampler's rate; after ten calls an old rate is forgotten
_CAUTION = 0.25  # chosen: the first call's share of the usual length, while the rate is only a guess


@dataclass(eq=False, slots=True)
class Call:
    """What a sampler draws at once: shards of one or more requests, `size` noises in all, of one model.

    It is `dropped` when its sampler has been given up and its shards are handed out again.
    """

    parts: list[tuple[Request[Any], list[Shard]]] = field(default_factory=list)
    size: int = 0
    dropped: bool = False

    def add(self, request: Request[Any], shards: list[Shard]) -> None:
        """Take in shards of a request."""
        self.parts.append((request, shards))
        self.size += sum(shard.size for shard in shards)

    @property
    def model(self) -> str:
        """The classifier."""
        return self.parts[0][0].model

    @property
    def requests(self) -> list[Request[Any]]:
        """The requests that it serves, each once."""
        return list(dict.fromkeys(request for request, _ in self.parts))

    @property
    def tasks(self) -> list[SampleTask]:
        """What the sampler gets."""
        return [SampleTask(request.image, shard, request.trace) for request, shards in self.parts for shard in shards]


@dataclass(slots=True)
class Speed:
    """Of one sampler with one model: `rate` in rows a second (a guess until it is `measured`), the rows of a `batch`.

    A batch is always computed as a whole, so a call of fewer rows costs the same.
    """

    rate: float
    batch: int
    measured: bool = False

    def room(self, seconds: float) -> int:
        """How many noises make a call of this length: full batches, at least one; none in no time."""
        if not self.measured:
            seconds *= _CAUTION
        return max(1, round(self.rate * seconds / self.batch)) * self.batch if seconds > 0.0 else 0

    def learn(self, noises: int, seconds: float, call_seconds: float) -> None:
        """Measure the rate, in rows that are computed, from a call that was neither tiny nor quick."""
        if seconds <= 0.0 or (seconds < call_seconds and 2 * noises < self.room(call_seconds)):
            return
        rate = math.ceil(noises / self.batch) * self.batch / seconds
        self.rate += (_RATE_MEMORY if self.measured else 1.0) * (rate - self.rate)
        self.measured = True


@dataclass(eq=False, slots=True)
class Slot:
    """One sampler: its speed with a model of which nothing is known, and with each that it drew for; its calls."""

    sampler: Sampler
    first_guess: Speed
    speeds: dict[str, Speed] = field(default_factory=dict)
    calls: set[Call] = field(default_factory=set)


class Slots:
    """All samplers, by how many calls they have: those without one come first. Everything takes constant time."""

    def __init__(self) -> None:
        self.by_id: dict[str, Slot] = {}
        self._expected: dict[str, Speed] = {}
        self._free: tuple[dict[Slot, None], ...] = tuple({} for _ in range(MAX_IN_FLIGHT))

    def expect(self, model: str, speed: Speed) -> None:
        """The first guess of every sampler's speed with a model."""
        self._expected[model] = speed

    def forget(self, model: str) -> None:
        """The model is not served any more."""
        self._expected.pop(model, None)
        for slot in self.by_id.values():
            slot.speeds.pop(model, None)

    def speed(self, slot: Slot, model: str) -> Speed:
        """Of one sampler with one model."""
        if model not in slot.speeds:
            slot.speeds[model] = replace(self._expected.get(model, slot.first_guess))
        return slot.speeds[model]

    def rate(self, model: str) -> float:
        """Rows a second of all samplers together, with one model."""
        return sum(self.speed(slot, model).rate for slot in self.by_id.values())

    @property
    def idle(self) -> int:
        """How many have no call."""
        return len(self._free[0])

    def add(self, slot: Slot) -> None:
        """A new sampler, without a call."""
        self.by_id[slot.sampler.id] = slot
        self._free[0][slot] = None

    def remove(self, slot: Slot) -> None:
        """Forget a sampler."""
        del self.by_id[slot.sampler.id]
        for free in self._free:
            free.pop(slot, None)

    def next_free(self) -> Slot | None:
        """A sampler that can take a call, if possible one that has none."""
        return next((slot for free in self._free for slot in free), None)

    def start(self, slot: Slot, call: Call) -> None:
        """The sampler has got a call."""
        del self._free[len(slot.calls)][slot]
        slot.calls.add(call)
        if len(slot.calls) < MAX_IN_FLIGHT:
            self._free[len(slot.calls)][slot] = None

    def finish(self, slot: Slot, call: Call) -> None:
        """The sampler is done with a call."""
        if len(slot.calls) < MAX_IN_FLIGHT:
            del self._free[len(slot.calls)][slot]
        slot.calls.remove(call)
        self._free[len(slot.calls)][slot] = None
