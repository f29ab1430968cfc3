"""CIFAR-10 with ResNet-110: the settings of the papers (METHODS 3.7, 3.8 and 4 to 9)."""

from spacte_core.data.base import DataConfig
from spacte_core.models import ModelConfig, Normalization, ensemble_of
from spacte_trainer.config import OptimizerConfig, StepSchedule, TrainConfig
from spacte_trainer.objectives import DrtConfig, ObjectiveConfig

from .base import recipe
from .methods import OBJECTIVES, SIGMAS, SPACTE
from .methods import smoothadv as published_smoothadv

HEADS = 5


def network(depth: int, heads: int, *, normalized: bool = True) -> ModelConfig:
    """A CIFAR ResNet."""
    return ModelConfig(
        arch=f"cifar_resnet{depth}",
        heads=heads,
        num_classes=10,
        input_shape=(3, 32, 32),
        normalization=Normalization.of("cifar10", "standard" if normalized else "none"),
    )


def cifar10(method: str, objective: ObjectiveConfig, sigma: float, *, heads: int = 1) -> TrainConfig:
    """What all of these share: 150 epochs of batches of 256, SGD from 0.1, a tenth after epochs 50 and 100."""
    return TrainConfig(
        recipe=f"cifar10-resnet110-{method}-{sigma}",
        method=method,
        data=DataConfig(source="cifar10", crop=4, flip=True),
        model=network(110, heads),
        objective=objective,
        sigma=sigma,
        optimizer=OptimizerConfig(lr=0.1, momentum=0.9, weight_decay=1e-4),
        schedule=StepSchedule(drops_after=(50, 100)),
        epochs=150,
        batch=256,
        seed=666,
    )


@recipe("cifar10-resnet110-spacte-gaussian", SIGMAS)
def spacte_gaussian(sigma: float) -> TrainConfig:
    """SPACTE-Gaussian, five heads, as published."""
    return cifar10("spacte-gaussian", SPACTE["gaussian"](sigma), sigma, heads=HEADS)


@recipe("cifar10-resnet110-spacte-consistency", SIGMAS)
def spacte_consistency(sigma: float) -> TrainConfig:
    """SPACTE-Consistency, five heads, as published."""
    return cifar10("spacte-consistency", SPACTE["consistency"](sigma), sigma, heads=HEADS)


@recipe("cifar10-resnet110-spacte-smoothmix", SIGMAS)
def spacte_smoothmix(sigma: float) -> TrainConfig:
    """SPACTE-SmoothMix, five heads, as published."""
    return cifar10("spacte-smoothmix", SPACTE["smoothmix"](sigma), sigma, heads=HEADS)


@recipe("cifar10-resnet110-spacte-smoothadv", SIGMAS)
def spacte_smoothadv(sigma: float) -> TrainConfig:
    """SPACTE over SmoothAdv, five heads: unpublished, ours."""
    return cifar10("spacte-smoothadv", SPACTE["smoothadv"](sigma), sigma, heads=HEADS)


@recipe("cifar10-resnet110-gaussian", SIGMAS)
def gaussian(sigma: float) -> TrainConfig:
    """Gaussian augmentation, one network, in the set-up of Horvath et al."""
    return cifar10("gaussian", OBJECTIVES["gaussian"](sigma), sigma)


@recipe("cifar10-resnet110-consistency", SIGMAS)
def consistency(sigma: float) -> TrainConfig:
    """Consistency, one network, as published."""
    return cifar10("consistency", OBJECTIVES["consistency"](sigma), sigma)


@recipe("cifar10-resnet110-smoothmix", SIGMAS)
def smoothmix(sigma: float) -> TrainConfig:
    """SmoothMix, one network, as published; the one-step adversary where SPACTE uses it."""
    return cifar10("smoothmix", OBJECTIVES["smoothmix"](sigma), sigma)


@recipe("cifar10-resnet110-smoothadv", SIGMAS)
def smoothadv(sigma: float) -> TrainConfig:
    """SmoothAdv (PGD), one network, in the set-up of Horvath et al."""
    return cifar10("smoothadv", OBJECTIVES["smoothadv"](sigma), sigma)


def _macer_setup(config: TrainConfig) -> TrainConfig:
    """The original's 440 epochs of batches of 64 without input normalisation (METHODS section 7)."""
    return config.model_copy(
        update={
            "model": network(110, config.model.heads, normalized=False),
            "optimizer": OptimizerConfig(lr=0.01, momentum=0.9, weight_decay=5e-4),
            "schedule": StepSchedule(drops_after=(199, 399)),
            "epochs": 440,
            "batch": 64,
        }
    )


@recipe("cifar10-resnet110-macer", SIGMAS)
def macer(sigma: float) -> TrainConfig:
    """MACER, one network, as published at 0.25 and 0.5; at 1.0 the deferred form, from memory."""
    return _macer_setup(cifar10("macer", OBJECTIVES["macer"](sigma), sigma))


@recipe("cifar10-resnet110-spacte-macer", SIGMAS)
def spacte_macer(sigma: float) -> TrainConfig:
    """SPACTE over MACER, five heads: unpublished, ours."""
    return _macer_setup(cifar10("spacte-macer", SPACTE["macer"](sigma), sigma, heads=HEADS))


@recipe("cifar10-resnet110-ensemble-gaussian", SIGMAS)
def ensemble_gaussian(sigma: float) -> TrainConfig:
    """Naive ensemble of ten Gaussian networks, as published by Horvath et al."""
    return gaussian(sigma).model_copy(update={"method": "ensemble-gaussian", "members": 10})


@recipe("cifar10-resnet110-ensemble-consistency", SIGMAS)
def ensemble_consistency(sigma: float) -> TrainConfig:
    """Naive ensemble of ten Consistency networks, as published by Horvath et al."""
    return consistency(sigma).model_copy(update={"method": "ensemble-consistency", "members": 10})


@recipe("cifar10-resnet110-ensemble-smoothmix", SIGMAS)
def ensemble_smoothmix(sigma: float) -> TrainConfig:
    """Naive ensemble of five SmoothMix networks; the number is ours."""
    return smoothmix(sigma).model_copy(update={"method": "ensemble-smoothmix", "members": 5})


def fine_tuned_drt(
    base: TrainConfig, drt: DrtConfig, *, members: int, epochs: int, drops_after: tuple[int, ...]
) -> TrainConfig:
    """DRT of `members` copies of a single network, trained apart first and then together from a rate of 0.01.

    The paper's weights, rate and number of epochs could not be established, so they are ours.
    """
    return base.model_copy(
        update={
            "method": f"drt-{base.method}",
            "model": ensemble_of((base.model,) * members),
            "objective": ObjectiveConfig(base=drt),
            "optimizer": base.optimizer.model_copy(update={"lr": base.optimizer.lr / 10}),
            "schedule": StepSchedule(drops_after=drops_after),
            "epochs": epochs,
            "pretrain": base.model_copy(update={"method": f"ensemble-{base.method}", "members": members}),
        }
    )


@recipe("cifar10-resnet110-drt-gaussian", SIGMAS)
def drt_gaussian(sigma: float) -> TrainConfig:
    """DRT of three Gaussian networks; the weights, rate and epochs are ours."""
    return fine_tuned_drt(gaussian(sigma), DrtConfig(), members=3, epochs=60, drops_after=(20, 40))


@recipe("cifar10-resnet110-drt-smoothadv", SIGMAS)
def drt_smoothadv(sigma: float) -> TrainConfig:
    """DRT of three SmoothAdv networks; the weights, rate and epochs are ours."""
    base = smoothadv(sigma)
    attack = published_smoothadv(sigma).attack.model_copy(update={"variant": "jeong"})
    return fine_tuned_drt(base, DrtConfig(attack=attack), members=3, epochs=60, drops_after=(20, 40))
