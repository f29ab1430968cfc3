"""A small multi-head CNN for 8x8 images: three shared convolutions, and one of its own for each head."""

from torch import nn

from .multihead import Head

WIDTH = 32  # channels. Chosen: such a network trains in half a minute on a CPU (benchmarks/results/digits.md)


def backbone(channels: int) -> nn.Module:
    """32 channels at full resolution."""
    return nn.Sequential(*_unit(channels, WIDTH), *_unit(WIDTH, WIDTH), *_unit(WIDTH, WIDTH))


def head(num_classes: int) -> nn.Module:
    """64 channels at half the resolution, global average, linear layer."""
    return Head(nn.Sequential(*_unit(WIDTH, 2 * WIDTH, stride=2)), 2 * WIDTH, num_classes)


def _unit(channels_in: int, channels: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )
