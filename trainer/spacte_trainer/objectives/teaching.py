"""How the losses of the heads become one loss: weighted, and under SPACTE by circular teaching."""

import math
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, BeforeValidator, Field
from torch import Tensor, nn

from spacte_core.models.multihead import unwrapped
from spacte_trainer.circular_teaching import Teacher, cosine_loss, teacher_losses, weights
from spacte_trainer.schedules import Pace, threshold

from .base import Loss, Step, Terms


def _yaml_off(given: object) -> object:
    """YAML reads `off` without quotes as false."""
    return "off" if given is False else given


class CircularTeaching(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """SPACTE: each head is taught by the one before it, and the heads are kept apart.

        total = (1/L) sum_k (1/B) sum_b w[k,b] * (sum of the method's terms)[k,b] + L_cos

    `lambda_last` is the threshold of the last epoch (METHODS 3.1, 3.8). w comes from the smoothed cross-entropy of
    the method's main forward (3.2) and multiplies **every** term of a head on a sample. For Gaussian, Consistency
    and SmoothMix this is the published SPACTE (3.3, 3.5, 3.6). SPACTE over SmoothAdv and MACER is unpublished: here
    it is the same rule, so that a sample that is hard for the teacher counts less in every term, robustness included.

    The other settings are for ablations; what is published is their default.
    """

    name: Literal["circular"] = "circular"
    lambda_last: float = Field(gt=0, le=20, description="lambda_T, in nats of cross-entropy; a uniform guess has ln K.")
    pace: Annotated[Pace, BeforeValidator(_yaml_off)] = Field(
        default="published",
        description="How the threshold gets from ln K to lambda_T: published (linear in 10^-lambda), linear, fixed (it "
        "is lambda_T throughout), or off (every weight is 1).",
    )
    teacher: Teacher = Field(
        default="previous", description="The head that judges: previous or next in the circle, self, or random."
    )
    hard_weight: Literal["own", "teacher"] = Field(
        default="own", description="Whose loss the weight of a hard sample comes from: the head's, or its teacher's."
    )
    cosine: float = Field(default=1.0, ge=0, description="Coefficient of L_cos; 0 leaves it out.")

    def combine(self, net: nn.Module, terms: Terms, step: Step) -> Loss:
        """Weighted terms plus the cosine loss.

        Raises:
            ValueError: the network has one head, or the run one epoch.
        """
        level = threshold(step.epoch, step.epochs, step.num_classes, self.lambda_last, self.pace)
        teacher_LB = teacher_losses(terms.smoothed_ce_LB, self.teacher, step.draws)
        own_LB = terms.smoothed_ce_LB if self.hard_weight == "own" else teacher_LB
        w_LB = torch.ones_like(teacher_LB) if math.isinf(level) else weights(own_LB, level, teacher_LB)
        loss = weigh(terms, w_LB)
        if not self.cosine:
            return Loss(loss.total, {**loss.parts, "weight": w_LB.mean()})
        cos = self.cosine * cosine_loss(unwrapped(net).heads)
        return Loss(loss.total + cos, {**loss.parts, "cos": cos.detach(), "weight": w_LB.mean()})


def weigh(terms: Terms, w_LB: Tensor) -> Loss:
    """The mean over heads and samples of w times the sum of the terms, plus the scalars."""
    weighted = {name: w_LB * loss_LB for name, loss_LB in terms.per_sample_LB.items()}
    total_LB = torch.stack(list(weighted.values())).sum(dim=0)
    named = {**{name: loss_LB.mean() for name, loss_LB in weighted.items()}, **terms.scalars}
    parts = {name: value.detach() for name, value in named.items()}
    return Loss(torch.stack(list(named.values())).sum(), {**parts, "heads": total_LB.detach().mean(dim=1)})
