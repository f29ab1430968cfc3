"""What travels between the coordinator and a sampler: plain data, no torch, no Ray.

A `Shard` names noises by index, and its votes are a function of the shard alone. When a sampler dies, another one
draws the same shard again and gets the same votes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Literal, Protocol

from spacte_client.types import Noise
from spacte_core.preprocessing import Steps

from .tracing import Trace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Output = Literal["counts", "logits", "gradient"]
"""What a sampler gives of a shard: votes alone, or with the logits of each row, or with the gradient for an attack."""


class Phase(IntEnum):
    """Which of the disjoint noise sequences of an image. The value enters the noise key: never renumber."""

    SELECTION = 0
    ESTIMATION = 1
    PREDICTION = 2
    SCORES = 3
    ATTACK = 4
    DISAGREEMENT = 5
    PILOT = 6


@dataclass(frozen=True, slots=True)
class Image:
    """Decoded pixels.

    Attributes:
        data: C-order bytes of the [C, H, W] array.
        shape: (C, H, W).
        dtype: `uint8` (values 0..255 on the 8-bit grid) or `float32` (values in [0, 1]; no grid noise).
        steps: what was done to the picture that it was decoded from; None: nothing.
    """

    data: bytes = field(repr=False)
    shape: tuple[int, int, int]
    dtype: str
    steps: Steps | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class NoiseSource:
    """Everything besides the index range that determines the noise and the vote of a sample.

    Attributes:
        seed: 32 hex digits (128 bits) of the request.
        image_index: position of the image in the request, 0 for a single one.
        sigma: noise sd in units of [0, 1] pixels.
        noise: `grid` (integer noise on the 1/255 grid), `float`, or `none`: the base classifier's own answer.
        k_consensus: heads that must agree for a vote without the others; None runs all heads.
        request_digest: of the canonical request (`certification.canonical`), 64 hex digits; empty for version 1.
        output: what is wanted of each shard; not part of the noise.
        label: the class whose probability the gradient is of.
    """

    seed: str
    image_index: int
    sigma: float
    noise: Noise | Literal["none"]
    k_consensus: int | None = None
    request_digest: str = ""
    output: Output = "counts"
    label: int | None = None

    @property
    def kind(self) -> tuple[str, float, int | None, bool, int | None]:
        """What all rows of a batch have in common."""
        return self.noise, self.sigma, self.k_consensus, self.output == "gradient", self.label


@dataclass(frozen=True, slots=True)
class Shard:
    """Noises start..stop-1 of one phase of one image.

    `again`: they have been drawn before, and are computed in reverse order now, so that each row has other neighbours.
    What comes back is in the order of the noises all the same.
    """

    source: NoiseSource
    phase: Phase
    start: int
    stop: int
    again: bool = False

    @property
    def size(self) -> int:
        """Number of noises."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Votes:
    """Votes of a shard, and how long the sampler took.

    Attributes:
        counts: one per class; with `invalid` they sum to the shard's size.
        seconds: the shard's part of a call.
        invalid: rows that voted for no class, because a logit was NaN or infinite.
        logits_NK: of each row, float32, where the output is `logits`.
        gradient_CHW: of the summed probability of the source's label, float32, where the output is `gradient`.
        rounding: by how much a row's logits may hang on its place in the batch, as part of what rows differ by.
    """

    counts: tuple[int, ...]
    seconds: float
    invalid: int = 0
    logits_NK: "NDArray[np.float32] | None" = None
    gradient_CHW: "NDArray[np.float32] | None" = None
    rounding: float = 0.0


@dataclass(frozen=True, slots=True)
class SampleTask:
    """A shard, the image that its noises are added to, and the request that it is for."""

    image: Image
    shard: Shard
    trace: Trace | None = None


def traces_of(tasks: Sequence[SampleTask]) -> list[Trace]:
    """The requests that a call is for, each once."""
    return list(dict.fromkeys(task.trace for task in tasks if task.trace is not None))


class SamplerLostError(Exception):
    """The sampler is gone with its shards; another one can draw them."""


class Sampler(Protocol):
    """One source of votes: a Ray actor on a GPU or CPU share, or the engine in this process."""

    @property
    def id(self) -> str:
        """A name that stays the same while the sampler lives."""
        ...

    async def sample_many(self, model: str, tasks: Sequence[SampleTask]) -> list[Votes]:
        """Draw several shards, of one image or of several, and return their votes in the same order.

        The engine packs the rows of all shards of a call into its fixed, padded batches, so small shards cost no more
        a noise than large ones.

        Raises:
            SamplerLostError: the sampler is gone; draw all of these shards elsewhere.
        """
        ...
