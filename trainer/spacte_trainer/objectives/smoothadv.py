"""SmoothAdv (Salman et al. 2019; METHODS section 6): adversarial training of the smoothed classifier."""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from spacte_trainer.attacks import Pgd
from spacte_trainer.smoothing import draw_logits, smoothed_ce

from .base import Method, Step, Terms


class SmoothAdv(Method, frozen=True):
    """Cross-entropy on noisy adversarial inputs, "train on all noise samples".

        x_adv     = PGD on the smoothed classifier, radius min(epsilon, t * epsilon / warm-up)
        term[l,b] = (1/m) sum_j CE(z_l(x_adv_b + n_j(b)), y_b)

    CIFAR-10 (Horvath et al.): epsilon 255/256, T 10, m 8 at sigma .25; 2, 2, 2 at .5; 2, 10, 2 at 1.

    The same noises serve the attack and the loss. A network with several heads is attacked as one, with the
    loss that the SPACTE-SmoothMix attack uses (averaged over heads after the logarithm): all heads then see
    the same adversary, and circular teaching compares them on it. Draws: normal [B, m, C, H, W] for
    Salman's form of the attack, whose copies are sample-major, [m, B, C, H, W] for Jeong's.
    """

    name: Literal["smoothadv"] = "smoothadv"
    draws: int = Field(default=2, ge=1, description="m")
    attack: Pgd

    def terms(self, net: nn.Module, x_BCHW: Tensor, y_B: Tensor, step: Step) -> Terms:
        """lbar on the adversarial inputs as `ce`."""
        if self.attack.variant == "salman":
            unit_mBCHW = step.draws.normal((len(x_BCHW), self.draws, *x_BCHW.shape[1:])).transpose(0, 1)
        else:
            unit_mBCHW = step.draws.normal((self.draws, *x_BCHW.shape))
        x_adv_BCHW = self.attack.adversary(net, x_BCHW, y_B, unit_mBCHW, step.sigma, step.epoch)
        ce_LB = smoothed_ce(draw_logits(net, x_adv_BCHW + step.sigma * unit_mBCHW), y_B)
        return Terms(ce_LB, {"ce": ce_LB})
