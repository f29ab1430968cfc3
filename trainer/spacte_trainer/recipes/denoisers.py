"""A denoiser before a classifier that stays as it is: objectives of Salman et al. 2020; all settings are ours."""

from collections.abc import Mapping
from typing import Literal

from spacte_core.models import ModelConfig
from spacte_core.models.denoisers import DenoiserConfig
from spacte_core.models.registry import denoised_of
from spacte_trainer.config import InitConfig, OptimizerConfig, TrainConfig
from spacte_trainer.objectives import Denoise, Objective
from spacte_trainer.schedules import OneCycleSchedule

from .fine_tuning import data_for

KINDS: Mapping[str, tuple[Literal["dncnn", "unet"], Literal["mse", "stability"]]] = {
    "denoiser-dncnn": ("dncnn", "mse"),
    "denoiser-dncnn-stability": ("dncnn", "stability"),
    "denoiser-unet": ("unet", "mse"),
    "denoiser-unet-stability": ("unet", "stability"),
}
"""Denoiser and objective, by the recipe's name."""

RATE = 0.1  # peak learning rate. Chosen on the digits, where 0.02 takes off less noise
EPOCHS, BATCH = 10, 128  # chosen: what a small machine has time for

UNET_WIDTH = 48  # chosen: half a million weights


def denoising(recipe: str, sigma: float, source: str, classifier: ModelConfig, init: InitConfig) -> TrainConfig:
    """Train a denoiser before a classifier.

    Args:
        recipe: one of `KINDS`.
        sigma: noise sd in units of [0, 1] pixels.
        source: the data.
        classifier: what comes after it.
        init: where that is.
    """
    kind, loss = KINDS[recipe]
    denoiser = DenoiserConfig(kind=kind) if kind == "dncnn" else DenoiserConfig(kind=kind, width=UNET_WIDTH)
    return TrainConfig(
        recipe=recipe,
        method=recipe,
        data=data_for(source, classifier),
        model=denoised_of(denoiser, classifier),
        objective=Objective(base=Denoise(loss=loss)),
        sigma=sigma,
        optimizer=OptimizerConfig(lr=RATE),
        schedule=OneCycleSchedule(),
        epochs=EPOCHS,
        batch=BATCH,
        init=init,
    )
