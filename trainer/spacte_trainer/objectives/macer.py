"""MACER (Zhai et al. 2020; METHODS section 7): maximise the certified radius itself, without an attack."""

import math
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from spacte_trainer.smoothing import draw_logits, label_probability, mean_probability, smoothed_ce

from .base import Method, Step, Terms


class Macer(Method, frozen=True):
    """Classification by the soft smoothed classifier, and a hinge on its radius.

        cls[b]    = -log( (1/k) sum_j softmax(z[b,j])_y + 1e-10 )
        qhat[b]   = (1/k) sum_j softmax(beta z[b,j]);  u1, u2 its two largest entries
        xi[b]     = Phi^-1(u1) - Phi^-1(u2)
        rob[b]    = (sigma/2) (gamma - xi[b])   where argmax qhat = y, xi is finite and |xi| <= gamma, else 0
        term[b]   = cls[b] + lbd * rob[b]

    CIFAR-10: k 16, beta 16, gamma 8, lbd 12 at sigma .25 and 4 at .5, batch 64, no input normalisation.

    The sums are divided by the batch size, not by the number of samples in the hinge. With several heads
    every head has its own terms. Circular teaching, unpublished over MACER, judges a sample by its smoothed
    cross-entropy, as it does everywhere, so that lambda means the same for every method, and weights both
    terms of the head. A loader batch is one step. Draws: normal [B, k, C, H, W].
    """

    name: Literal["macer"] = "macer"
    draws: int = Field(default=16, ge=1, description="k")
    lbd: float = Field(default=12.0, ge=0, description="Weight of the robustness term.")
    beta: float = Field(default=16.0, gt=0, description="Inverse temperature of the robustness term alone.")
    gamma: float = Field(default=8.0, gt=0, description="Hinge: samples beyond it drop out of that term.")
    defer_epochs: int = Field(default=0, ge=0, description="lbd is 0 up to and including this epoch.")

    @property
    def steps_per_batch(self) -> int:
        """One: MACER does not cut a batch."""
        return 1

    def stretched(self, ratio: float) -> Self:
        """The robustness term begins after the same part of a run `ratio` times as long."""
        return self.model_copy(update={"defer_epochs": round(ratio * self.defer_epochs)})

    def terms(self, net: nn.Module, x_BCHW: Tensor, y_B: Tensor, step: Step) -> Terms:
        """`cls` and `rob`."""
        unit_BkCHW = step.draws.normal((len(x_BCHW), self.draws, *x_BCHW.shape[1:]))
        z_LkBK = draw_logits(net, x_BCHW + step.sigma * unit_BkCHW.transpose(0, 1))
        lbd = 0.0 if step.epoch <= self.defer_epochs else self.lbd
        rob_LB = lbd * robustness(z_LkBK, y_B, step.sigma, self.beta, self.gamma)
        return Terms(smoothed_ce(z_LkBK.detach(), y_B), {"cls": classification(z_LkBK, y_B), "rob": rob_LB})


def classification(z_LkBK: Tensor, y_B: Tensor) -> Tensor:
    """cls_LB of the docstring above."""
    return -(label_probability(mean_probability(z_LkBK), y_B) + 1e-10).log()


def robustness(z_LkBK: Tensor, y_B: Tensor, sigma: float, beta: float, gamma: float) -> Tensor:
    """rob_LB of the docstring above.

    Saturated predictions (u1 = 1 or u2 = 0) have an infinite xi. They are found first, without a
    graph, and replaced before Phi^-1 is taken again, so that no NaN comes back through the entries that are
    masked out.
    """
    top_LB2, classes_LB2 = mean_probability(beta * z_LkBK).topk(2, dim=-1)
    with torch.no_grad():
        xi_LB = _margin(top_LB2)
        counts_LB = (classes_LB2[..., 0] == y_B) & xi_LB.isfinite() & (xi_LB.abs() <= gamma)
    harmless_LB2 = torch.where(counts_LB[..., None], top_LB2, torch.full_like(top_LB2, 0.5))
    return torch.where(counts_LB, sigma / 2 * (gamma - _margin(harmless_LB2)), torch.zeros_like(xi_LB))


def _margin(u_LB2: Tensor) -> Tensor:
    quantile_LB2 = math.sqrt(2) * torch.erfinv(2 * u_LB2 - 1)
    return quantile_LB2[..., 0] - quantile_LB2[..., 1]
