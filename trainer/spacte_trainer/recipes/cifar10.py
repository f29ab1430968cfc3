"""CIFAR-10 with ResNet-110: the settings of the papers (METHODS 3.7, 3.8 and 4 to 9)."""

from spacte_core.data.base import DataConfig
from spacte_core.models import ModelConfig, Normalization, ensemble_of
from spacte_trainer.config import OptimizerConfig, TrainConfig
from spacte_trainer.objectives import Drt, Objective
from spacte_trainer.schedules import StepSchedule

from .base import add_recipes
from .methods import SIGMAS, heads_of, naive_ensemble, objective, smoothadv

FAMILY = "cifar10-resnet110"

ENSEMBLE_MEMBERS = {"gaussian": 10, "consistency": 10, "smoothmix": 5}
"""Ten as published by Horvath et al.; the number for SmoothMix is ours."""

DRT_MEMBERS = 3
"""Ours, as are the weights and the fine-tuning (METHODS section 9)."""


def network(depth: int, heads: int, *, normalized: bool = True) -> ModelConfig:
    """A CIFAR ResNet."""
    return ModelConfig(
        arch=f"cifar_resnet{depth}",
        heads=heads,
        num_classes=10,
        input_shape=(3, 32, 32),
        normalization=Normalization.of("cifar10", "standard" if normalized else "none"),
    )


def single(method: str, sigma: float) -> TrainConfig:
    """One network: 150 epochs of batches of 256, SGD from 0.1, a tenth after epochs 50 and 100 (METHODS 3.7)."""
    config = TrainConfig(
        recipe=f"{FAMILY}-{method}-{sigma}",
        method=method,
        data=DataConfig(source="cifar10", crop=4, flip=True),
        model=network(110, heads_of(method)),
        objective=objective(method, sigma),
        sigma=sigma,
        optimizer=OptimizerConfig(lr=0.1, momentum=0.9, weight_decay=1e-4),
        schedule=StepSchedule(drops_after=(50, 100)),
        epochs=150,
        batch=256,
        seed=666,
    )
    return macer_setup(config) if method.endswith("macer") else config


def macer_setup(config: TrainConfig) -> TrainConfig:
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


def fine_tuned_drt(base: TrainConfig, drt: Drt, *, epochs: int, drops_after: tuple[int, ...]) -> TrainConfig:
    """DRT of copies of a single network, trained apart first and then together from a tenth of their rate."""
    return base.model_copy(
        update={
            "method": f"drt-{base.method}",
            "model": ensemble_of((base.model,) * DRT_MEMBERS),
            "objective": Objective(base=drt),
            "optimizer": base.optimizer.model_copy(update={"lr": base.optimizer.lr / 10}),
            "schedule": StepSchedule(drops_after=drops_after),
            "epochs": epochs,
            "pretrain": naive_ensemble(base, DRT_MEMBERS),
        }
    )


def configuration(method: str, sigma: float) -> TrainConfig:
    """A single network, `ensemble-` or `drt-` of several."""
    kind, _, base = method.partition("-")
    if kind == "ensemble":
        return naive_ensemble(single(base, sigma), ENSEMBLE_MEMBERS[base])
    if kind == "drt":
        attack = smoothadv(sigma).attack.model_copy(update={"variant": "jeong"}) if base == "smoothadv" else None
        return fine_tuned_drt(single(base, sigma), Drt(attack=attack), epochs=60, drops_after=(20, 40))
    return single(method, sigma)


add_recipes(
    FAMILY,
    configuration,
    {
        "spacte-gaussian": "SPACTE-Gaussian, five heads, as published.",
        "spacte-consistency": "SPACTE-Consistency, five heads, as published.",
        "spacte-smoothmix": "SPACTE-SmoothMix, five heads, as published.",
        "spacte-smoothadv": "SPACTE over SmoothAdv, five heads: unpublished, ours.",
        "gaussian": "Gaussian augmentation, one network, in the set-up of Horvath et al.",
        "consistency": "Consistency, one network, as published.",
        "smoothmix": "SmoothMix, one network, as published; the one-step adversary where SPACTE uses it.",
        "smoothadv": "SmoothAdv (PGD), one network, in the set-up of Horvath et al.",
        "macer": "MACER, one network, as published at 0.25 and 0.5; at 1.0 the deferred form, from memory.",
        "spacte-macer": "SPACTE over MACER, five heads: unpublished, ours.",
        "ensemble-gaussian": "Naive ensemble of ten Gaussian networks, as published by Horvath et al.",
        "ensemble-consistency": "Naive ensemble of ten Consistency networks, as published by Horvath et al.",
        "ensemble-smoothmix": "Naive ensemble of five SmoothMix networks; the number is ours.",
        "drt-gaussian": "DRT of three Gaussian networks; the weights, rate and epochs are ours.",
        "drt-smoothadv": "DRT of three SmoothAdv networks; the weights, rate and epochs are ours.",
    },
    SIGMAS,
)
