"""ImageNet with ResNet-50, split into heads at its last stage.

Published are the Gaussian set-up (Cohen et al.) and the Consistency settings (Jeong and Shin; METHODS section 5).
No ImageNet commands were published for SPACTE, and METHODS has none for the other bases: those settings are ours and
untested at this size. They follow the published ones of CIFAR-10, with five heads and a lambda_T of 2.0, since a
smoothed loss over 1,000 classes is larger than one over ten.
"""

from spacte_core.data.base import DataConfig
from spacte_core.models import ModelConfig, Normalization
from spacte_trainer.config import OptimizerConfig, TrainConfig
from spacte_trainer.objectives import BaseMethod, Consistency, Objective, spacte
from spacte_trainer.schedules import StepSchedule

from .base import add_recipes, published
from .methods import SIGMAS, SINGLE, TAUGHT, heads_of, macer

FAMILY = "imagenet-resnet50"
LAMBDA_LAST = 2.0
"""Ours, see above."""

CONSISTENCY = {0.25: (10.0, 0.5), 0.5: (5.0, 0.5), 1.0: (5.0, 0.1)}
"""(lbd, eta), published."""


def base_method(method: str, sigma: float) -> BaseMethod:
    """The settings of CIFAR-10, but for Consistency, which has published ones, and for MACER's draws and deferral."""
    base = method.removeprefix("spacte-")
    if base == "consistency":
        lbd, eta = published(CONSISTENCY, sigma)
        return Consistency(draws=2, lbd=lbd, eta=eta)
    if base == "macer":
        return macer(sigma).model_copy(update={"draws": 2, "defer_epochs": 30 if sigma == 1.0 else 0})
    return (SINGLE if base == method else TAUGHT)[base](sigma)


def configuration(method: str, sigma: float) -> TrainConfig:
    """As Cohen et al. trained: 90 epochs, batch 400, a tenth after epochs 30 and 60."""
    base, heads = base_method(method, sigma), heads_of(method)
    return TrainConfig(
        recipe=f"{FAMILY}-{method}-{sigma}",
        method=method,
        data=DataConfig(source="imagenet:data/imagenet"),
        model=ModelConfig(
            arch="imagenet_resnet50",
            heads=heads,
            num_classes=1000,
            input_shape=(3, 224, 224),
            normalization=Normalization.of("imagenet"),
        ),
        objective=spacte(base, LAMBDA_LAST) if heads > 1 else Objective(base=base),
        sigma=sigma,
        optimizer=OptimizerConfig(lr=0.1, momentum=0.9, weight_decay=1e-4),
        schedule=StepSchedule(drops_after=(30, 60)),
        epochs=90,
        batch=400,
        deterministic=False,
    )


add_recipes(
    FAMILY,
    configuration,
    {
        "gaussian": "Gaussian augmentation, one ResNet-50, as published by Cohen et al.",
        "consistency": "Consistency, one ResNet-50, with the published lbd and eta.",
        "smoothmix": "SmoothMix, one ResNet-50: our choice, the settings of CIFAR-10.",
        "smoothadv": "SmoothAdv, one ResNet-50: our choice, the settings of CIFAR-10.",
        "macer": "MACER, one ResNet-50: our choice, two draws, normalised, in the set-up of the others.",
        "spacte-gaussian": "SPACTE-Gaussian, five heads: our choice of heads and lambda_T.",
        "spacte-consistency": "SPACTE-Consistency, five heads: our choice of heads and lambda_T.",
        "spacte-smoothmix": "SPACTE-SmoothMix, five heads: our choice throughout.",
    },
    SIGMAS,
)
