"""What every training objective is made of: the draws and the step it is given, and the loss it hands back.

Shape suffixes: L heads, m noise draws, B samples of a piece, N = mB inputs of a forward, K classes, C H W
pixels.

An `Objective` is a base method composed with a teaching. The **method** (`gaussian.py`, `consistency.py`,
...) draws the noise, runs the network and yields `Terms`: what each head loses on each sample. The
**teaching** (`teaching.py`) says how much each of those terms counts. Neither knows the other.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn


class Draws(Protocol):
    """The randomness of a training step. In which order a method asks for it is in its docstring."""

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
        self.device = torch.device(device)
        self.dtype = dtype

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Independent N(0, 1)."""
        return torch.randn(tuple(shape), generator=self.generator, device=self.device, dtype=self.dtype)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Independent U[0, 1)."""
        return torch.rand(tuple(shape), generator=self.generator, device=self.device, dtype=self.dtype)


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
    """A loss to step on, and its detached parts to look at (on the device: reading them is up to the caller).

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
        scalars: named losses that belong to no single head or sample, coefficients included; added as they
            are.
    """

    smoothed_ce_LB: Tensor
    per_sample_LB: Mapping[str, Tensor]
    scalars: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


class MethodConfig(BaseModel, ABC):
    """Hyper-parameters of a base method. Each subclass has a literal `name` that tells it from the others."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @abstractmethod
    def build(self) -> "Method":
        """The method with these hyper-parameters."""

    def stretched(self, ratio: float) -> Self:  # noqa: ARG002 - one signature for all
        """The same for a run `ratio` times as long; itself unless something waits for an epoch."""
        return self

    def under_teaching(self) -> Self:
        """The form that SPACTE publishes for this method; itself unless the two differ."""
        return self


class Method(ABC):
    """A base method: noise -> forward -> what each head loses on each sample."""

    pieces: int = 1
    """m of METHODS section 2: into how many optimiser steps a loader batch is cut."""

    double_backward: bool = False
    """Whether the loss differentiates a gradient, which a compiled network cannot do."""

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


class Teaching(ABC):
    """How the heads' losses are weighted and what binds the heads together."""

    @abstractmethod
    def combine(self, net: nn.Module, terms: Terms, step: Step) -> Loss:
        """One loss from the terms of all heads."""


class Objective:
    """A base method under a teaching: all that the training loop needs to know of either."""

    def __init__(self, method: Method, teaching: Teaching) -> None:
        self.method = method
        self.teaching = teaching

    @property
    def double_backward(self) -> bool:
        """Whether the network must stay uncompiled, because the loss differentiates a gradient."""
        return self.method.double_backward

    def pieces(self, x_BCHW: Tensor, y_B: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The mini-batches of a loader batch, each of which is one optimiser step (METHODS section 2)."""
        for start, stop in split(len(x_BCHW), self.method.pieces):
            if start < stop:
                yield x_BCHW[start:stop], y_B[start:stop]

    def loss(self, net: nn.Module, x_BCHW: Tensor, y_B: Tensor, step: Step) -> Loss:
        """The loss of one piece; see `Method.terms` for the arguments."""
        return self.teaching.combine(net, self.method.terms(net, x_BCHW, y_B, step), step)


def split(batch: int, m: int) -> list[tuple[int, int]]:
    """m consecutive ranges [start, stop) of floor(batch / m) samples; the last batch mod m are in none.

    With batch < m every range is empty.
    """
    size = batch // m
    return [(i * size, (i + 1) * size) for i in range(m)]
