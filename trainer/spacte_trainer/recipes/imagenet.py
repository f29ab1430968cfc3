"""ImageNet with ResNet-50, split into heads at its last stage.

Published are the Gaussian set-up (Cohen et al.) and the Consistency settings (Jeong and Shin; METHODS section 5).
No ImageNet commands were published for SPACTE, and METHODS has none for the other bases: those settings are ours and
untested at this size. They follow the published ones of CIFAR-10, with five heads and a lambda_T of 2.0, since a
smoothed loss over 1,000 classes is larger than one over ten.
"""

from spacte_core.data.base import DataConfig
from spacte_core.models import ModelConfig, Normalization
from spacte_trainer.config import OptimizerConfig, StepSchedule, TrainConfig
from spacte_trainer.objectives import ConsistencyConfig, ObjectiveConfig, spacte

from .base import published, recipe
from .methods import SIGMAS, gaussian, macer, smoothadv, smoothmix

HEADS = 5
LAMBDA_LAST = 2.0
CONSISTENCY = {0.25: (10.0, 0.5), 0.5: (5.0, 0.5), 1.0: (5.0, 0.1)}
"""(lbd, eta), published."""


def imagenet(method: str, objective: ObjectiveConfig, sigma: float, *, heads: int = 1) -> TrainConfig:
    """What all of these share, as Cohen et al. trained: 90 epochs, batch 400, a tenth after epochs 30 and 60."""
    return TrainConfig(
        recipe=f"imagenet-resnet50-{method}-{sigma}",
        method=method,
        data=DataConfig(source="imagenet:data/imagenet"),
        model=ModelConfig(
            arch="imagenet_resnet50",
            heads=heads,
            num_classes=1000,
            input_shape=(3, 224, 224),
            normalization=Normalization.of("imagenet"),
        ),
        objective=objective,
        sigma=sigma,
        optimizer=OptimizerConfig(lr=0.1, momentum=0.9, weight_decay=1e-4),
        schedule=StepSchedule(drops_after=(30, 60)),
        epochs=90,
        batch=400,
        deterministic=False,
    )


def _consistency(sigma: float) -> ConsistencyConfig:
    lbd, eta = published(CONSISTENCY, sigma)
    return ConsistencyConfig(draws=2, lbd=lbd, eta=eta)


@recipe("imagenet-resnet50-gaussian", SIGMAS)
def single_gaussian(sigma: float) -> TrainConfig:
    """Gaussian augmentation, one ResNet-50, as published by Cohen et al."""
    return imagenet("gaussian", ObjectiveConfig(base=gaussian(sigma)), sigma)


@recipe("imagenet-resnet50-consistency", SIGMAS)
def single_consistency(sigma: float) -> TrainConfig:
    """Consistency, one ResNet-50, with the published lbd and eta."""
    return imagenet("consistency", ObjectiveConfig(base=_consistency(sigma)), sigma)


@recipe("imagenet-resnet50-smoothmix", SIGMAS)
def single_smoothmix(sigma: float) -> TrainConfig:
    """SmoothMix, one ResNet-50: our choice, the settings of CIFAR-10."""
    return imagenet("smoothmix", ObjectiveConfig(base=smoothmix(sigma)), sigma)


@recipe("imagenet-resnet50-smoothadv", SIGMAS)
def single_smoothadv(sigma: float) -> TrainConfig:
    """SmoothAdv, one ResNet-50: our choice, the settings of CIFAR-10."""
    return imagenet("smoothadv", ObjectiveConfig(base=smoothadv(sigma)), sigma)


@recipe("imagenet-resnet50-macer", SIGMAS)
def single_macer(sigma: float) -> TrainConfig:
    """MACER, one ResNet-50: our choice, two draws, normalised, in the set-up of the others."""
    base = macer(sigma).model_copy(update={"draws": 2, "defer_epochs": 30 if sigma == 1.0 else 0})
    return imagenet("macer", ObjectiveConfig(base=base), sigma)


@recipe("imagenet-resnet50-spacte-gaussian", SIGMAS)
def spacte_gaussian(sigma: float) -> TrainConfig:
    """SPACTE-Gaussian, five heads: our choice of heads and lambda_T."""
    return imagenet("spacte-gaussian", spacte(gaussian(sigma, draws=2), LAMBDA_LAST), sigma, heads=HEADS)


@recipe("imagenet-resnet50-spacte-consistency", SIGMAS)
def spacte_consistency(sigma: float) -> TrainConfig:
    """SPACTE-Consistency, five heads: our choice of heads and lambda_T."""
    return imagenet("spacte-consistency", spacte(_consistency(sigma), LAMBDA_LAST), sigma, heads=HEADS)


@recipe("imagenet-resnet50-spacte-smoothmix", SIGMAS)
def spacte_smoothmix(sigma: float) -> TrainConfig:
    """SPACTE-SmoothMix, five heads: our choice throughout."""
    return imagenet("spacte-smoothmix", spacte(smoothmix(sigma), LAMBDA_LAST), sigma, heads=HEADS)
