"""Gaussian augmentation (Cohen et al. 2019; METHODS section 5), and with teaching SPACTE-Gaussian (3.3)."""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from spacte_trainer.smoothing import draw_logits, smoothed_ce

from .base import Method, Step, Terms


class Gaussian(Method, frozen=True):
    """Cross-entropy on noisy inputs.

        lbar[l,b] = (1/m) sum_j CE(z_l(x_b + n_j(b)), y_b),     n ~ N(0, sigma^2 I)

    The one term of head l on sample b is lbar[l,b]. Draws: normal [m, B, C, H, W].
    """

    name: Literal["gaussian"] = "gaussian"
    draws: int = Field(default=1, ge=1, description="m: 1 for the single model, 2 in the published SPACTE settings.")
    label_smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of each label that is spread over all classes; teachers judge by the plain loss.",
    )

    def terms(self, net: nn.Module, x_BCHW: Tensor, y_B: Tensor, step: Step) -> Terms:
        """lbar as `ce`."""
        noise_mBCHW = step.sigma * step.draws.normal((self.draws, *x_BCHW.shape))
        z_LmBK = draw_logits(net, x_BCHW + noise_mBCHW)
        ce_LB = smoothed_ce(z_LmBK, y_B)
        if not self.label_smoothing:
            return Terms(ce_LB, {"ce": ce_LB})
        return Terms(ce_LB, {"ce": smoothed_ce(z_LmBK, y_B, self.label_smoothing)})
