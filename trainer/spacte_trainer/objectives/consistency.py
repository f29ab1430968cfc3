"""Consistency regularisation (Jeong and Shin 2020; METHODS section 5); taught, SPACTE-Consistency (3.5)."""

from typing import Literal, Self

from pydantic import Field
from torch import Tensor, nn

from spacte_trainer.attacks import Pgd
from spacte_trainer.smoothing import divergence, draw_logits, entropy, mean_probability, smoothed_ce

from .base import Method, Step, Terms


class Consistency(Method, frozen=True):
    """Cross-entropy, and two regularisers: all noisy copies of a sample get the same answer, with confidence.

        pbar_l[b] = (1/m) sum_j p[l,j,b]
        term[l,b] = lbar[l,b] + lbd * (1/m) sum_j KL(pbar_l[b] || p[l,j,b]) + eta * H(pbar_l[b])
        H(p)      = - sum_c p_c log max(p_c, 1e-20)

    CIFAR-10: lbd 20 / 10 / 10 at sigma .25 / .5 / 1, eta .5. pbar carries gradient in the single-model method. With
    `constant_mean` it does not, and then the entropy has a value but no gradient. Draws: normal [m, B, C, H, W].
    """

    name: Literal["consistency"] = "consistency"
    draws: int = Field(default=2, ge=1, description="m")
    lbd: float = Field(default=10.0, ge=0, description="Weight of the divergence between the draws.")
    eta: float = Field(default=0.5, ge=0, description="Weight of the entropy of their mean.")
    constant_mean: bool = Field(default=False, description="Hold pbar constant when differentiating.")
    attack: Pgd | None = Field(default=None, description="Take the noise around adversarial inputs.")

    def under_teaching(self) -> Self:
        """SPACTE-Consistency averages the draws without a gradient; the single model does not."""
        return self.model_copy(update={"constant_mean": True})

    def terms(self, net: nn.Module, x_BCHW: Tensor, y_B: Tensor, step: Step) -> Terms:
        """lbar as `ce`, both regularisers as `con`."""
        unit_mBCHW = step.draws.normal((self.draws, *x_BCHW.shape))
        if self.attack is not None:
            x_BCHW = self.attack.adversary(net, x_BCHW, y_B, unit_mBCHW, step.sigma, step.epoch)
        z_LmBK = draw_logits(net, x_BCHW + step.sigma * unit_mBCHW)
        pbar_LBK = mean_probability(z_LmBK)
        if self.constant_mean:
            pbar_LBK = pbar_LBK.detach()
        ce_LB = smoothed_ce(z_LmBK, y_B)
        con_LB = self.lbd * divergence(pbar_LBK, z_LmBK) + self.eta * entropy(pbar_LBK)
        return Terms(ce_LB, {"ce": ce_LB, "con": con_LB})
