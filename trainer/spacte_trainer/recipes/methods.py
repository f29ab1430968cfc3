"""The methods with their settings by sigma, as published for ResNet-110 on CIFAR-10 (METHODS 3.8 and 4 to 7).

What no paper or repository gives is marked as ours.
"""

from collections.abc import Callable, Mapping
from functools import partial

from spacte_trainer.config import TrainConfig
from spacte_trainer.objectives import (
    BaseMethod,
    Consistency,
    Gaussian,
    Macer,
    Objective,
    Pgd,
    SmoothAdv,
    SmoothMix,
    spacte,
)

from .base import published

SIGMAS = (0.25, 0.5, 1.0)
"""The noise levels of all papers."""

HEADS = 5
"""Of SPACTE, as published (METHODS 3.7)."""

LAMBDA_LAST: Mapping[str, Mapping[float, float]] = {
    "gaussian": {0.25: 1.2, 0.5: 0.8, 1.0: 0.8},
    "consistency": {0.25: 1.0, 0.5: 0.8, 1.0: 1.0},
    "smoothmix": {0.25: 1.6, 0.5: 1.0, 1.0: 1.6},
    # Ours: circular teaching judges by the smoothed cross-entropy under every method, so Gaussian's carry over.
    "smoothadv": {0.25: 1.2, 0.5: 0.8, 1.0: 0.8},
    "macer": {0.25: 1.2, 0.5: 0.8, 1.0: 0.8},
}
"""lambda_T, by method and sigma; published in the SPACTE commands (METHODS 3.8)."""

CONSISTENCY_LBD = {0.25: 20.0, 0.5: 10.0, 1.0: 10.0}
"""Published (METHODS section 5)."""

SMOOTHMIX_ALPHA = {0.25: 0.5, 0.5: 1.0, 1.0: 2.0}
"""Published (METHODS section 4)."""

SMOOTHMIX_STEP = {0.25: 0, 0.5: 1, 1.0: 1}
"""As in SPACTE-SmoothMix; for the single model both 0 and 1 are published at every sigma."""

SMOOTHADV = {0.25: ("255/256", 10, 8), 0.5: ("512/256", 2, 2), 1.0: ("512/256", 10, 2)}
"""(epsilon, steps, draws) of Horvath et al."""

MACER = {0.25: (12.0, 0), 0.5: (4.0, 0), 1.0: (12.0, 199)}
"""(lbd, last epoch without the robustness term). At sigma 1 from memory: none before the first drop of the rate."""


def gaussian(sigma: float, draws: int = 1) -> Gaussian:
    """One draw for the single model, two under teaching; the same at every sigma."""
    published(LAMBDA_LAST["gaussian"], sigma)
    return Gaussian(draws=draws)


def consistency(sigma: float) -> Consistency:
    """Two draws, eta 0.5."""
    return Consistency(draws=2, lbd=published(CONSISTENCY_LBD, sigma), eta=0.5)


def smoothmix(sigma: float) -> SmoothMix:
    """Two draws, four steps, eta 5."""
    alpha, mix_step = published(SMOOTHMIX_ALPHA, sigma), published(SMOOTHMIX_STEP, sigma)
    return SmoothMix(draws=2, steps=4, alpha=alpha, mix_step=mix_step, eta=5.0)


def smoothadv(sigma: float) -> SmoothAdv:
    """Salman's attack; epsilon grows over the first ten epochs."""
    epsilon, steps, draws = published(SMOOTHADV, sigma)
    return SmoothAdv(draws=draws, attack=Pgd.model_validate({"steps": steps, "epsilon": epsilon}))


def macer(sigma: float) -> Macer:
    """Sixteen draws, beta 16, gamma 8."""
    lbd, defer_epochs = published(MACER, sigma)
    return Macer(draws=16, lbd=lbd, beta=16.0, gamma=8.0, defer_epochs=defer_epochs)


SINGLE: Mapping[str, Callable[[float], BaseMethod]] = {
    "gaussian": gaussian,
    "consistency": consistency,
    "smoothmix": smoothmix,
    "smoothadv": smoothadv,
    "macer": macer,
}
"""The single-model methods, by label."""

TAUGHT = {**SINGLE, "gaussian": partial(gaussian, draws=2)}
"""What SPACTE teaches."""


def objective(method: str, sigma: float) -> Objective:
    """The objective of `METHOD`, or of `spacte-METHOD`, its taught form."""
    base = method.removeprefix("spacte-")
    if base == method:
        return Objective(base=SINGLE[base](sigma))
    return spacte(TAUGHT[base](sigma), published(LAMBDA_LAST[base], sigma))


def heads_of(method: str) -> int:
    """How many heads a method's network has: `HEADS` for SPACTE, else one."""
    return HEADS if method.startswith("spacte-") else 1


def naive_ensemble(base: TrainConfig, members: int) -> TrainConfig:
    """`members` networks of a recipe, which differ by their seed alone (METHODS section 8)."""
    return base.model_copy(update={"method": f"ensemble-{base.method}", "members": members})
