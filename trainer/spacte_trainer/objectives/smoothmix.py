"""SmoothMix (Jeong et al. 2021; METHODS section 4), and with teaching SPACTE-SmoothMix (3.6)."""

from typing import Literal, Self

from pydantic import Field
from torch import Tensor, nn

from spacte_trainer import attacks
from spacte_trainer.schedules import warmup
from spacte_trainer.smoothing import divergence, draw_logits, mean_probability, smoothed_ce

from .base import Method, Step, Terms


class SmoothMix(Method, frozen=True):
    """Cross-entropy, and a soft target on the way to an adversary of the smoothed classifier.

        x', x_adv  = the attack, with mix_step and the radius s(t) * alpha * mix_step for x'
        pbar[b]    = (1/(mL)) sum_{j,l} p[l,j,b](x' + n)
        x_mix      = (1-a) x' + a x_adv,   q = (1-a) pbar + a/K,   a_b ~ U[0, 0.5)
        term[l,b]  = lbar[l,b](x') + eta * s(t) * c_b * (1/m) sum_j KL(q_b || p[l,j,b](x_mix + n))

    CIFAR-10: alpha .5 / 1 / 2 at sigma .25 / .5 / 1; `mix_step` 1 is the one-step adversary.

    pbar is **not** detached, so the gradient flows through q into the first forward. c_b is 1 where argmax
    pbar = y_b and else 0; without `only_correct` it is always 1. All heads share a_b, and the same noises
    serve the attack and both forwards. Draws: normal [m, B, C, H, W], then uniform [B].
    """

    name: Literal["smoothmix"] = "smoothmix"
    draws: int = Field(default=2, ge=1, description="m")
    steps: int = Field(default=4, ge=1, description="T of the attack.")
    alpha: float = Field(default=1.0, gt=0, description="L2 length of an attack step.")
    mix_step: int = Field(default=0, ge=0, description="Attack step at whose start the clean side is taken.")
    eta: float = Field(default=5.0, ge=0, description="Weight of the mixing loss.")
    warmup_epochs: int = Field(default=10, ge=0, description="s(t) = min(1, t / this).")
    radius: float | None = Field(default=None, gt=0, description="L2 radius of the adversary; None: free.")
    only_correct: bool = Field(default=True, description="Mix only samples that are classified correctly.")

    def under_teaching(self) -> Self:
        """SPACTE-SmoothMix weights every sample, right or wrong."""
        return self.model_copy(update={"only_correct": False})

    def terms(self, net: nn.Module, x_BCHW: Tensor, y_B: Tensor, step: Step) -> Terms:
        """lbar of the clean side as `ce`, the mixing loss as `mix`."""
        s = warmup(step.epoch, self.warmup_epochs)
        noise_mBCHW = step.sigma * step.draws.normal((self.draws, *x_BCHW.shape))
        x_clean, x_adv = attacks.smoothmix(
            net,
            x_BCHW,
            y_B,
            noise_mBCHW,
            steps=self.steps,
            alpha=self.alpha,
            mix_step=self.mix_step,
            init_radius=s * self.alpha * self.mix_step,
            radius=self.radius,
        )
        a_B = 0.5 * step.draws.uniform((len(x_BCHW),))
        return self.mixed_terms(net, x_clean, x_adv, y_B, noise_mBCHW, a_B, scale=self.eta * s)

    def mixed_terms(
        self,
        net: nn.Module,
        x_clean_BCHW: Tensor,
        x_adv_BCHW: Tensor,
        y_B: Tensor,
        noise_mBCHW: Tensor,
        a_B: Tensor,
        scale: float,
    ) -> Terms:
        """The terms given both sides and the mixing coefficients a in [0, 0.5); `scale` is eta * s(t)."""
        z_LmBK = draw_logits(net, x_clean_BCHW + noise_mBCHW)
        pbar_BK = mean_probability(z_LmBK).mean(dim=0)
        x_mix_BCHW, q_BK = mix(x_clean_BCHW, x_adv_BCHW, pbar_BK, a_B)
        mix_LB = scale * divergence(q_BK, draw_logits(net, x_mix_BCHW + noise_mBCHW))
        if self.only_correct:
            mix_LB = mix_LB * (pbar_BK.argmax(dim=1) == y_B)
        ce_LB = smoothed_ce(z_LmBK, y_B)
        return Terms(ce_LB, {"ce": ce_LB, "mix": mix_LB})


def mix(x_clean_BCHW: Tensor, x_adv_BCHW: Tensor, pbar_BK: Tensor, a_B: Tensor) -> tuple[Tensor, Tensor]:
    """x_mix and q of the docstring above."""
    a_B111, a_B1 = a_B[:, None, None, None], a_B[:, None]
    x_mix_BCHW = (1 - a_B111) * x_clean_BCHW + a_B111 * x_adv_BCHW
    return x_mix_BCHW, (1 - a_B1) * pbar_BK + a_B1 / pbar_BK.shape[1]
