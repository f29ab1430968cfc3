"""The networks that the engine is measured on, and the least work that a noisy sample is for them."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from spacte_core.flops import macs_of
from spacte_core.models import ModelConfig, MultiHeadNet, build
from spacte_core.models.normalization import Normalization
from spacte_workers.engine.calibration import noisy_rows

_SEED = 20_260_101  # chosen: any number, so that runs repeat
_ROWS, _SETTLING_ROWS, _MAX_VALUES = 64, 256, 1 << 25  # chosen: statistics settle, and rows take 128 MB at most


@dataclass(frozen=True)
class Cost:
    """What one sample costs a network.

    Attributes:
        multiply_adds: of its convolutions and linear layers.
        values_moved: entries of the maps that each of them reads and writes, were each layer one fused kernel
            and all weights in the cache.
    """

    multiply_adds: int
    values_moved: int


def config_of(arch: str, heads: int) -> ModelConfig:
    """The configuration of a benchmark network: its usual input, classes and normalisation.

    Raises:
        ValueError: the architecture is unknown.
    """
    known: dict[str, tuple[Literal["digits", "imagenet", "cifar10"], tuple[int, int, int], int]] = {
        "digits_cnn": ("digits", (1, 8, 8), 10),
        "imagenet_resnet50": ("imagenet", (3, 224, 224), 1000),
    }
    dataset, shape, classes = known.get(arch, ("cifar10", (3, 32, 32), 10))
    return ModelConfig(
        arch=arch, heads=heads, num_classes=classes, input_shape=shape, normalization=Normalization.of(dataset)
    )


def settled_network(config: ModelConfig, sigma: float) -> MultiHeadNet:
    """A network with seeded random weights whose batch normalisation has seen noisy images, in eval mode.

    It is not trained, so its votes hang on small differences: agreement between precisions is a pessimistic figure, and
    speed the same as a trained network's.
    """
    torch.manual_seed(_SEED)
    net = build(config)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = None  # an average over all batches seen
                layer.reset_running_stats()
                layer.train()
        few = max(_ROWS, _MAX_VALUES // math.prod(config.input_shape) // _ROWS * _ROWS)
        rows = noisy_rows(config.input_shape, sigma, min(_SETTLING_ROWS, few))
        for x_BCHW in (*rows.split(_ROWS), *rows.split(_ROWS)):
            net(x_BCHW)
    return net.eval()


def network_of(arch: str, heads: int, sigma: float, checkpoint: Path | None) -> tuple[MultiHeadNet, ModelConfig]:
    """A trained network from its folder, or a settled one without."""
    if checkpoint is None:
        config = config_of(arch, heads)
        return settled_network(config, sigma), config
    from spacte_core.checkpoint import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    return loaded.net, loaded.config.model


def cost_of(net: nn.Module, input_shape: tuple[int, int, int]) -> Cost:
    """Count the work of one sample with one forward pass."""
    values = 0

    def count(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal values
        values += inputs[0].numel() + output.numel()

    hooks = [layer.register_forward_hook(count) for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    macs = macs_of(net, torch.zeros(1, *input_shape, device=next(net.parameters()).device))
    for hook in hooks:
        hook.remove()
    return Cost(macs, values)
