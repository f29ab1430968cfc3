"""Noisy fine-tuning of a network that exists, on any data, by the papers' methods; all other settings are ours."""

from typing import Any

from spacte_core.data.base import DataConfig
from spacte_core.models import ModelConfig
from spacte_trainer.config import InitConfig, OptimizerConfig, TrainConfig
from spacte_trainer.schedules import OneCycleSchedule

from .base import RecipeError
from .methods import HEADS, SINGLE, objective

RATE = 0.01
"""Peak learning rate. Chosen: a tenth of that from fresh weights, which would undo what the network knows."""

EPOCHS, BATCH = 3, 128
"""Chosen: what a small machine has time for."""


def from_init(config: TrainConfig, model: ModelConfig, init: InitConfig) -> TrainConfig:
    """A recipe that starts from a network in place of fresh weights, at a tenth of its rate for fresh ones, by SGD."""
    rate = config.optimizer.lr if init.weights == "random" and init.version is None else RATE
    optimizer = config.optimizer.model_copy(update={"lr": rate, "muon": None})
    return config.model_copy(update={"model": model, "init": init, "optimizer": optimizer, "pretrain": None})


def fine_tuning(method: str, sigma: float, source: str, model: ModelConfig, init: InitConfig) -> TrainConfig:
    """Fine-tune a network by a method, without a recipe.

    Args:
        method: such as `gaussian`, or `spacte-gaussian` where heads are to teach each other.
        sigma: noise sd in units of [0, 1] pixels.
        source: the data.
        model: what is trained.
        init: what it starts from.

    Raises:
        RecipeError: there is no such method, or it has no settings for sigma.
    """
    if method.removeprefix("spacte-") not in SINGLE:
        raise RecipeError(f"There is no method {method!r}: use {', '.join(SINGLE)}, or one of them after spacte-.")
    return TrainConfig(
        recipe=f"fine-tuning-{method}",
        method=method,
        data=data_for(source, model),
        model=model,
        objective=objective(method, sigma),
        sigma=sigma,
        optimizer=OptimizerConfig(lr=RATE),
        schedule=OneCycleSchedule(),
        epochs=EPOCHS,
        batch=BATCH,
        init=init,
    )


def data_for(source: str, model: ModelConfig) -> DataConfig:
    """The data, brought to a network's input where they are pictures of any size."""
    channels, height, _ = model.input_shape
    pictures: dict[str, Any] = {"image_size": height, "channels": channels}
    kind = DataConfig(source=source).kind
    return DataConfig(source=source, **(pictures if kind in ("folder", "parquet", "hf") else {}))


def heads_of_method(method: str, heads: int | None) -> int | None:
    """As many heads as asked for, or as SPACTE has; None for a single model."""
    return heads or (HEADS if method.startswith("spacte-") else None)
