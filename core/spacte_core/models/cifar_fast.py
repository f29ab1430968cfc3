"""A CIFAR network that trains in minutes: wide convolutions, few layers, no shortcuts. Split before its last block.

After the networks of the speed records for CIFAR-10 (K. Jordan, "94 % on CIFAR-10 in 3.29 seconds on a single GPU",
2024): a stem of 2 x 2 convolutions, and three blocks of two 3 x 3 convolutions, which matrix units like. Of `width` 256
it has 118 million multiply-adds an image, nearly three times those of a ResNet-20, and half the layers of its stages.
"""

from torch import nn

from .cifar_resnet import initialised
from .multihead import Head

STEM = 24
"""Channels of the stem: twice the values of a 2 x 2 patch of three channels."""


class ConvBlock(nn.Sequential):
    """conv3x3-pool2x2-BN-ReLU-conv3x3-BN-ReLU: `channels` channels at half the resolution, rounded down."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels, 3, padding=1, bias=False),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )


def backbone(width: int, channels: int) -> nn.Module:
    """Stem, a block of a quarter of the width, and a block of the width: [width, 7, 7] of [channels, 32, 32].

    Raises:
        ValueError: the width is no multiple of four.
    """
    _check(width)
    stem = (nn.Conv2d(channels, STEM, 2, bias=False), nn.BatchNorm2d(STEM), nn.ReLU(inplace=True))
    return initialised(nn.Sequential(*stem, ConvBlock(STEM, width // 4), ConvBlock(width // 4, width)))


def head(width: int, num_classes: int) -> nn.Module:
    """A block of the width, global average, linear layer."""
    _check(width)
    return initialised(Head(ConvBlock(width, width), width, num_classes))


def _check(width: int) -> None:
    if width < 4 or width % 4:
        raise ValueError(f"The width of a fast CIFAR network is a multiple of 4, not {width}: try 64, 128 or 256.")
