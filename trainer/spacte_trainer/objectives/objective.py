"""A base method under a teaching: all that the training loop needs to know of either.

To add a method, write its file and add its class to `BaseMethod`.
"""

from collections.abc import Iterator
from typing import Annotated

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from .base import Loss, Step
from .consistency import Consistency
from .denoise import Denoise
from .drt import Drt
from .gaussian import Gaussian
from .macer import Macer
from .smoothadv import SmoothAdv
from .smoothmix import SmoothMix
from .teaching import CircularTeaching, weigh

BaseMethod = Annotated[
    Gaussian | Consistency | SmoothMix | SmoothAdv | Macer | Drt | Denoise, Field(discriminator="name")
]


class Objective(BaseModel, frozen=True, extra="forbid"):
    """What is minimised: a base method, and a teaching (None: every head learns on its own)."""

    base: BaseMethod
    teaching: CircularTeaching | None = None

    def mini_batches(self, x_BCHW: Tensor, y_B: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The mini-batches of a loader batch, each of which is one optimiser step (METHODS section 2)."""
        for start, stop in split(len(x_BCHW), self.base.steps_per_batch):
            if start < stop:
                yield x_BCHW[start:stop], y_B[start:stop]

    def loss(self, net: nn.Module, x_BCHW: Tensor, y_B: Tensor, step: Step) -> Loss:
        """The loss of one mini-batch; see `Method.terms` for the arguments."""
        terms = self.base.terms(net, x_BCHW, y_B, step)
        if self.teaching is None:
            return weigh(terms, torch.ones_like(terms.smoothed_ce_LB))
        return self.teaching.combine(net, terms, step)


def spacte(base: BaseMethod, lambda_last: float) -> Objective:
    """SPACTE over a base method, in the form that is published for it (METHODS 3.5, 3.6)."""
    return Objective(base=base.under_teaching(), teaching=CircularTeaching(lambda_last=lambda_last))


def split(batch: int, m: int) -> list[tuple[int, int]]:
    """m consecutive ranges [start, stop) of floor(batch / m) samples; the last batch mod m are in none.

    With batch < m every range is empty.
    """
    size = batch // m
    return [(i * size, (i + 1) * size) for i in range(m)]
