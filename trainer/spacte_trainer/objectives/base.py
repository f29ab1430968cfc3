"""What a training objective is made of: the draws and the step that it is given, and the loss that it returns.

Shape suffixes: L heads, m noise draws, B samples of a mini-batch, N = mB inputs of a forward, K classes, C H W pixels.

A **method** (`gaussian.py`, `consistency.py`, ...) draws the noise, runs the network and returns `Terms`: what each
head loses on each sample. A **teaching** (`teaching.py`) says how much each of those terms counts. Neither knows the
other; an `Objective` (`objective.py`) composes them.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn


class Draws(Protocol):
    """The randomness of a training step. Each method's docstring says in which order it asks for it."""

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Independent N(0, 1), on the device and in the dtype of the network."""
        ...

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Independent U[0, 1), on the device and in the dtype of the network."""
        ...


class SeededDraws:
    """Draws from one torch generator, so that a run is a function of its seed."""

    def __init__(
        self, generator: torch.Generator, device: torch.device | str, dtype: torch.dtype = torch.float32
    ) -> None:
        """`generator` must live on `device`."""
        self.generator = generator
        self.options: dict[str, Any] = {"generator": generator, "device": device, "dtype": dtype}

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Independent N(0, 1)."""
        return torch.randn(tuple(shape), **self.options)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Independent U[0, 1)."""
        return torch.rand(tuple(shape), **self.options)


@dataclass(frozen=True, slots=True)
class Step:
    """Where in the run a loss is evaluated.

    Attributes:
        epoch: t, 1-based.
        epochs: T.
        sigma: noise sd in units of [0, 1] pixels.
        num_classes: K.
        draws: the randomness of this step.
    """

    epoch: int
    epochs: int
    sigma: float
    num_classes: int
    draws: Draws


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss to step on, and its detached parts, on the device: reading them makes the host wait.

    Attributes:
        total: scalar with a graph.
        parts: scalars by name as they enter the total (e.g. `ce`, `cos`), and `heads`, a vector [L]: the
            weighted loss of each head.
    """

    total: Tensor
    parts: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Terms:
    """What a base method found, before any weighting.

    Attributes:
        smoothed_ce_LB: lbar, mean over draws of the cross-entropy on the main forward; circular teaching
            judges by it.
        per_sample_LB: named losses of each head on each sample, coefficients included; their weighted mean
            over heads and samples enters the total.
        scalars: named losses of no single head or sample, coefficients included; added as they are.
    """

    smoothed_ce_LB: Tensor
    per_sample_LB: Mapping[str, Tensor]
    scalars: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    def scaled(self, factor: float) -> "Terms":
        """The losses of heads on samples times a factor; what is judged by, and what is of no head, stays."""
        per_sample_LB = {name: factor * loss_LB for name, loss_LB in self.per_sample_LB.items()}
        return Terms(self.smoothed_ce_LB, per_sample_LB, self.scalars)


class Method(BaseModel, ABC, frozen=True, extra="forbid", allow_inf_nan=False):
    """A base method and its hyper-parameters: noise -> forward -> what each head loses on each sample."""

    name: str
    """A literal in each subclass, which tells it from the others."""

    draws: int = Field(ge=1, description="m, noises a sample.")

    double_backward: ClassVar[bool] = False
    """Whether the loss differentiates a gradient, which a compiled network cannot do."""

    @property
    def steps_per_batch(self) -> int:
        """How many mini-batches, each an optimiser step, a loader batch is cut into: m (METHODS section 2)."""
        return self.draws

    @abstractmethod
    def terms(self, net: nn.Module, x_BCHW: Tensor, y_B: Tensor, step: Step) -> Terms:
        """Losses of every head on every sample.

        What is computed on the host has to be constant within an epoch: on a GPU a step is recorded and replayed.

        Args:
            net: a `MultiHeadNet` in train mode, perhaps compiled or wrapped for data parallelism.
            x_BCHW: pixels in [0, 1].
            y_B: true classes, int64.
            step: epoch, noise level and randomness.
        """

    def stretched(self, ratio: float) -> Self:  # noqa: ARG002 - one signature for all
        """The same for a run `ratio` times as long; itself unless something waits for an epoch."""
        return self

    def under_teaching(self) -> Self:
        """The form that SPACTE publishes for this method; itself unless the two differ."""
        return self
