"""A denoiser before a classifier that stays as it is (Salman et al. 2020, section 3)."""

from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from spacte_core.models.denoisers import Denoised
from spacte_core.models.multihead import stack_logits, unwrapped
from spacte_trainer.smoothing import mean_probability

from .base import Method, Step, Terms


class Denoise(Method, frozen=True):
    """What is left of the noise, or how far the classifier's answer is from the one for the clean image.

        mse[b]       = |D(x_b + n) - x_b|^2 / (sigma^2 C H W),                     n ~ N(0, sigma^2 I)
        stability[b] = - sum_k softmax(F(x_b))_k log softmax(F(D(x_b + n)))_k

    F is the sum of the classifier's heads. Draws: normal [m, B, C, H, W]. The true classes are not looked at.
    """

    name: Literal["denoise"] = "denoise"
    draws: int = Field(default=1, ge=1, description="m, noises a sample.")
    loss: Literal["mse", "stability"] = Field(default="mse", description="What is made small.")

    def terms(self, net: nn.Module, x_BCHW: Tensor, y_B: Tensor, step: Step) -> Terms:  # noqa: ARG002
        """The loss of each sample under its name, for one head: all heads share the denoiser."""
        noisy = (x_BCHW + step.sigma * step.draws.normal((self.draws, *x_BCHW.shape))).flatten(0, 1)
        denoised = cast(Denoised, unwrapped(net))
        if self.loss == "mse":
            off = denoised.backbone.denoiser(noisy) - x_BCHW.repeat(self.draws, 1, 1, 1)
            loss = off.float().square().flatten(1).mean(1) / step.sigma**2
        else:
            with torch.no_grad():
                wanted_BK = mean_probability(stack_logits(denoised.undenoised(x_BCHW)).sum(0)[None, None])[0]
            log_p = stack_logits(denoised(noisy)).sum(0).log_softmax(1)
            loss = -(wanted_BK.repeat(self.draws, 1) * log_p).sum(1)
        loss_1B = loss.unflatten(0, (self.draws, -1)).mean(0)[None]
        return Terms(loss_1B, {self.loss: loss_1B})
