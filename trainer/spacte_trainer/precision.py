"""Decides `precision: auto` of a training run for the device that it trains on."""

import torch

from spacte_core.hardware import has_bf16

from .config import TrainConfig


def resolve_precision(config: TrainConfig, device: torch.device) -> TrainConfig:
    """The configuration, and what it starts from, with `precision="auto"` decided for `device`."""
    decided: dict[str, object] = {}
    if config.precision == "auto":
        decided["precision"] = "bf16" if has_bf16(device) else "float32"
    if config.pretrain is not None:
        decided["pretrain"] = resolve_precision(config.pretrain, device)
    return config.model_copy(update=decided)
