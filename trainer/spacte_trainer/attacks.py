"""Gradient attacks on the smoothed classifier: SmoothMix's, and the two published forms of SmoothAdv's PGD.

All of them see the network in eval mode with its parameters constant, start at x (no random start), use the
same noise draws at every step, differentiate with respect to the pixels alone and return tensors without a
graph. The loss is averaged over the network's heads **after** the logarithm:

    (1/L) sum_l -log max( pbar_l(x)[y], 1e-20 ),     pbar_l = mean over draws of the softmax of head l

Shapes: x_BCHW in [0, 1]; noise_mBCHW already scaled by sigma.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, BeforeValidator, Field
from torch import Tensor, nn

from spacte_core.models.multihead import frozen_eval, unwrapped

from .schedules import warmup
from .smoothing import draw_logits, label_probability, log_floor, mean_probability, smoothed_ce


def ball(d_BCHW: Tensor, radius: float) -> Tensor:
    """Each sample's d where its L2 norm n is at most `radius`, else d * radius / (n + 1e-7).

    The 1e-7 is what `torch.renorm` adds; a projected sample lies that little inside the ball.
    """
    n_B111 = _norm(d_BCHW)
    return torch.where(n_B111 <= radius, d_BCHW, d_BCHW * (radius / (n_B111 + 1e-7)))


def smoothmix(
    net: nn.Module,
    x_BCHW: Tensor,
    y_B: Tensor,
    noise_mBCHW: Tensor,
    *,
    steps: int,
    alpha: float,
    mix_step: int,
    init_radius: float,
    radius: float | None = None,
    reduce: Callable[[Tensor], Tensor] = torch.sum,
) -> tuple[Tensor, Tensor]:
    """SmoothMix's attack (Jeong et al. 2021; METHODS section 4): steps of length `alpha` up the loss.

        adv <- clamp( x + ball(adv + alpha * g/(||g|| + 1e-8) - x, radius), 0, 1 )

    Args:
        net, x_BCHW, y_B, noise_mBCHW: see the module.
        steps: T.
        alpha: L2 length of a step.
        mix_step: the 0-based step at whose **start** the replacement of the clean input is taken; 0 gives x
            itself, 1 the one-step adversary, T or more x again.
        init_radius: L2 radius that this replacement is projected to.
        radius: L2 radius that the adversary is kept in; None leaves it free.
        reduce: from the samples' losses to the one that g is the gradient of; the published 1e-8 is added to its norm.

    Returns:
        The replacement of the clean input, and the adversary, both in [0, 1].
    """
    init = adv = x_BCHW
    with frozen_eval(unwrapped(net)) as frozen:
        for i in range(steps):
            if i == mix_step:
                init = adv
            g = _gradient(lambda a: reduce(_nll(frozen, a + noise_mBCHW, y_B)), adv)
            adv = adv + alpha * g / (_norm(g) + 1e-8)
            if radius is not None:
                adv = x_BCHW + ball(adv - x_BCHW, radius)
            adv = adv.clamp(0, 1)
    return (x_BCHW + ball(init - x_BCHW, init_radius)).clamp(0, 1), adv


def pgd_salman(
    net: nn.Module, x_BCHW: Tensor, y_B: Tensor, noise_mBCHW: Tensor, *, steps: int, epsilon: float, spare_BCHW: Tensor
) -> Tensor:
    """SmoothAdv's PGD by Salman et al. 2019 (METHODS 6a): first the box, then the ball.

        delta <- delta + (2 epsilon/T) * g/||g||
        delta <- ball( clamp(x + delta, 0, 1) - x, epsilon )

    With one draw the loss is the plain cross-entropy. Where the gradient is exactly zero the published code
    steps along an un-normalised standard normal tensor instead: `spare_BCHW`.

    Returns:
        x + delta, within L2 radius `epsilon`.
    """
    loss = _nll if len(noise_mBCHW) > 1 else _cross_entropy
    delta = torch.zeros_like(x_BCHW)
    with frozen_eval(unwrapped(net)) as frozen:
        for _ in range(steps):
            g = _gradient(lambda d: loss(frozen, x_BCHW + d + noise_mBCHW, y_B).sum(), delta)
            n_B111 = _norm(g)
            direction = torch.where(n_B111 == 0, spare_BCHW, g / n_B111)
            delta = delta + 2 * epsilon / steps * direction
            delta = ball((x_BCHW + delta).clamp(0, 1) - x_BCHW, epsilon)
    return x_BCHW + delta


def pgd_jeong(
    net: nn.Module, x_BCHW: Tensor, y_B: Tensor, noise_mBCHW: Tensor, *, steps: int, epsilon: float
) -> Tensor:
    """SmoothAdv's PGD in the form of Jeong and Shin 2020 (METHODS 6b): first the ball, then the box.

    SmoothMix's steps, of length 2 epsilon/T along the gradient of the **mean** loss. Args and result as `pgd_salman`.
    """
    given, length = (net, x_BCHW, y_B, noise_mBCHW), 2 * epsilon / steps
    _, adv = smoothmix(
        *given, steps=steps, alpha=length, mix_step=0, init_radius=0.0, radius=epsilon, reduce=torch.mean
    )
    return adv


def _fraction(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return float(Fraction(value))
    except (ZeroDivisionError, OverflowError) as error:
        raise ValueError("no such number: write it like 255/256 or 0.5") from error


class Pgd(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """SmoothAdv's attack as part of an objective."""

    variant: Literal["salman", "jeong"] = "salman"
    steps: int = Field(ge=1, description="T; each step is 2 epsilon / T long.")
    epsilon: Annotated[float, BeforeValidator(_fraction)] = Field(
        gt=0, description='L2 radius in units of [0, 1] pixels; "255/256" is read as the fraction.'
    )
    warmup_epochs: int = Field(default=10, ge=0, description="The radius grows in proportion until this epoch.")

    def adversary(
        self, net: nn.Module, x_BCHW: Tensor, y_B: Tensor, unit_mBCHW: Tensor, sigma: float, epoch: int
    ) -> Tensor:
        """Adversarial inputs for noises sigma * unit_mBCHW, with the radius of this epoch."""
        epsilon = self.epsilon * warmup(epoch, self.warmup_epochs)
        given = (net, x_BCHW, y_B, sigma * unit_mBCHW)
        if self.variant == "jeong":
            return pgd_jeong(*given, steps=self.steps, epsilon=epsilon)
        # The first draw is a standard normal tensor too. One drawn only where a gradient vanished would make the
        # host wait for the device at every step.
        return pgd_salman(*given, steps=self.steps, epsilon=epsilon, spare_BCHW=unit_mBCHW[0])


def _norm(d_BCHW: Tensor) -> Tensor:
    return torch.linalg.vector_norm(d_BCHW, dim=(1, 2, 3), keepdim=True)


def _gradient(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    at = at.detach().requires_grad_()
    with torch.enable_grad():
        (g,) = torch.autograd.grad(loss(at), at)
    return g


def _nll(net: nn.Module, x_mBCHW: Tensor, y_B: Tensor) -> Tensor:
    pbar_LBK = mean_probability(draw_logits(net, x_mBCHW))
    return -log_floor(label_probability(pbar_LBK, y_B)).mean(dim=0)


def _cross_entropy(net: nn.Module, x_mBCHW: Tensor, y_B: Tensor) -> Tensor:
    return smoothed_ce(draw_logits(net, x_mBCHW), y_B).mean(dim=0)
