"""DRT (Yang et al. 2022; METHODS section 9): members with diverse gradients and large margins."""

from itertools import combinations
from typing import ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from spacte_core.models.ensemble import Member
from spacte_core.models.multihead import stack_logits, unwrapped
from spacte_trainer.attacks import Pgd
from spacte_trainer.smoothing import smoothed_ce

from .base import Method, Step, Terms


class Drt(Method, frozen=True):
    """An ensemble f_1..f_N whose members are right by a margin and are fooled in different directions.

    For member i on a noisy input x: margin M_i = p_(1) - p_(2) of the softmax, C_i = [argmax = y], and
    g_i = grad_x M_i, differentiable in turn.

        L_std = sum_i mean CE(f_i(x), y)
        CM    = sum_i sum_x C_i M_i / max(1, sum_i sum_x C_i)
        GD    = sum_{i<j} sum_x C_i C_j ||g_i + g_j||^2 / max(1, sum_{i<j} sum_x C_i C_j)
        loss  = L_std + rho1 * GD - rho2 * CM

    The paper's rho1 and rho2 could not be established; the defaults are ours. All members share the noises. One
    forward serves L_std and the regularisers. The network must be an `Ensemble`. Draws: normal [m, B, C, H, W].
    """

    name: Literal["drt"] = "drt"
    draws: int = Field(default=2, ge=1, description="m")
    rho1: float = Field(default=0.5, ge=0, description="Weight of the gradient diversity.")
    rho2: float = Field(default=0.5, ge=0, description="Weight of the confidence margin.")
    squared: bool = Field(default=True, description="Squared norm of g_i + g_j, as in the code; else the norm.")
    attack: Pgd | None = Field(default=None, description="SmoothAdv: each member sees its own adversarial inputs.")
    double_backward: ClassVar[bool] = True

    def terms(self, net: nn.Module, x_BCHW: Tensor, y_B: Tensor, step: Step) -> Terms:
        """N * lbar as `ce` (its mean over members is L_std), and the scalars `gd` and `cm`."""
        unit_mBCHW = step.draws.normal((self.draws, *x_BCHW.shape))
        x_LmBCHW = self.noisy_inputs(net, x_BCHW, y_B, unit_mBCHW, step)
        z_LmBK, g_LmBCHW, margin_LmB, correct_LmB = differentiated(net, x_LmBCHW, y_B)
        ce_LB = smoothed_ce(z_LmBK, y_B)
        scalars = {
            "gd": self.rho1 * gradient_diversity(g_LmBCHW, correct_LmB, squared=self.squared),
            "cm": -self.rho2 * confidence_margin(margin_LmB, correct_LmB),
        }
        return Terms(ce_LB, {"ce": len(ce_LB) * ce_LB}, scalars)

    def noisy_inputs(self, net: nn.Module, x_BCHW: Tensor, y_B: Tensor, unit_mBCHW: Tensor, step: Step) -> Tensor:
        """What each member is trained on, as LmBCHW: x + noise, or its own adversarial inputs + noise."""
        members = [cast(Member, head).net for head in unwrapped(net).heads]
        if len(members) < 2:
            raise ValueError("DRT needs an ensemble of at least two members: raise their number.")
        if self.attack is None:
            x_LBCHW = x_BCHW.expand(len(members), *x_BCHW.shape)
        else:
            attacked = (x_BCHW, y_B, unit_mBCHW, step.sigma, step.epoch)
            x_LBCHW = torch.stack([self.attack.adversary(member, *attacked) for member in members])
        return x_LBCHW[:, None] + step.sigma * unit_mBCHW


def differentiated(net: nn.Module, x_LmBCHW: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits z_LmBK, the margins' gradients g_LmBCHW, margins M_LmB and correctness C_LmB of the members."""
    m, B = x_LmBCHW.shape[1:3]
    x_LNCHW = x_LmBCHW.flatten(1, 2).detach().requires_grad_()
    z_LmBK = stack_logits(net(x_LNCHW)).unflatten(1, (m, B))
    top_LmB2, classes_LmB2 = z_LmBK.softmax(dim=-1).topk(2, dim=-1)
    margin_LmB = top_LmB2[..., 0] - top_LmB2[..., 1]
    (g_LNCHW,) = torch.autograd.grad(margin_LmB.sum(), x_LNCHW, create_graph=True)
    return z_LmBK, g_LNCHW.unflatten(1, (m, B)), margin_LmB, classes_LmB2[..., 0] == y_B


def confidence_margin(margin_LmB: Tensor, correct_LmB: Tensor) -> Tensor:
    """CM: the mean margin where a member is right, 0 where none is."""
    return (margin_LmB * correct_LmB).sum() / correct_LmB.sum().clamp(min=1)


def gradient_diversity(g_LmBCHW: Tensor, correct_LmB: Tensor, *, squared: bool = True) -> Tensor:
    """GD: the mean (squared) norm of g_i + g_j where both members of a pair are right, 0 where no pair is."""
    total, pairs = [], []
    for i, j in combinations(range(len(g_LmBCHW)), 2):
        sum_mBP = (g_LmBCHW[i] + g_LmBCHW[j]).flatten(2)
        norm_mB = sum_mBP.square().sum(dim=-1) if squared else torch.linalg.vector_norm(sum_mBP, dim=-1)
        both_mB = correct_LmB[i] & correct_LmB[j]
        total.append((norm_mB * both_mB).sum())
        pairs.append(both_mB.sum())
    return torch.stack(total).sum() / torch.stack(pairs).sum().clamp(min=1)
