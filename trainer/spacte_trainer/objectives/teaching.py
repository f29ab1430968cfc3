"""How the losses of the heads become one loss: weighted, and under SPACTE by circular teaching."""

from typing import Literal

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from spacte_core.models.multihead import unwrapped
from spacte_trainer.circular_teaching import cosine_loss, weights
from spacte_trainer.schedules import threshold

from .base import Loss, Step, Terms


class CircularTeaching(BaseModel, frozen=True, extra="forbid"):
    """SPACTE: each head is taught by the one before it, and the heads are kept apart.

        total = (1/L) sum_k (1/B) sum_b w[k,b] * (sum of the method's terms)[k,b] + L_cos

    `lambda_last` is the threshold of the last epoch (METHODS 3.1, 3.8). w comes from the smoothed cross-entropy of
    the method's main forward (3.2) and multiplies **every** term of a head on a sample. For Gaussian, Consistency
    and SmoothMix this is the published SPACTE (3.3, 3.5, 3.6). SPACTE over SmoothAdv and MACER is unpublished: here
    it is the same rule, so that a sample that is hard for the teacher counts less in every term, robustness included.
    """

    name: Literal["circular"] = "circular"
    lambda_last: float

    def combine(self, net: nn.Module, terms: Terms, step: Step) -> Loss:
        """Weighted terms plus the cosine loss.

        Raises:
            ValueError: the network has one head, or the run one epoch.
        """
        level = threshold(step.epoch, step.epochs, step.num_classes, self.lambda_last)
        w_LB = weights(terms.smoothed_ce_LB, level)
        loss = weigh(terms, w_LB)
        cos = cosine_loss(unwrapped(net).heads)
        return Loss(loss.total + cos, {**loss.parts, "cos": cos.detach(), "weight": w_LB.mean()})


def weigh(terms: Terms, w_LB: Tensor) -> Loss:
    """The mean over heads and samples of w times the sum of the terms, plus the scalars."""
    weighted = {name: w_LB * loss_LB for name, loss_LB in terms.per_sample_LB.items()}
    total_LB = torch.stack(list(weighted.values())).sum(dim=0)
    named = {**{name: loss_LB.mean() for name, loss_LB in weighted.items()}, **terms.scalars}
    parts = {name: value.detach() for name, value in named.items()}
    return Loss(torch.stack(list(named.values())).sum(), {**parts, "heads": total_LB.detach().mean(dim=1)})
