"""CIFAR ResNets of depth 6n+2, split before the last stage into a backbone and L heads (METHODS section 1).

The single-model network is the one with one head: it has the same layers and the same number of parameters.
"""

import math
from collections import OrderedDict

from torch import Tensor, nn
from torch.nn.functional import relu

from .multihead import Head


class BasicBlock(nn.Module):
    """conv3x3(stride)-BN-ReLU-conv3x3-BN plus shortcut, then ReLU.

    Where the shape changes, the shortcut is conv1x1(stride)-BN.
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = nn.Sequential()
        if stride != 1 or channels_in != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Features of `channels` channels, at 1/stride of the resolution."""
        h = relu(self.bn1(self.conv1(x_BCHW)), inplace=True)
        return relu(self.bn2(self.conv2(h)) + self.downsample(x_BCHW), inplace=True)


def backbone(depth: int, channels: int) -> nn.Module:
    """Stem, stage 1 (16 channels) and stage 2 (32 channels, half resolution).

    Raises:
        ValueError: the depth is not 6n+2.
    """
    n = _blocks_a_stage(depth)
    layers = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(channels, 16, 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(16),
        relu=nn.ReLU(inplace=True),
        layer1=_stage(n, 16, 16, stride=1),
        layer2=_stage(n, 16, 32, stride=2),
    )
    return initialised(nn.Sequential(layers))


def head(depth: int, num_classes: int) -> nn.Module:
    """Stage 3 (64 channels, a quarter of the resolution), global average, linear layer."""
    return initialised(Head(_stage(_blocks_a_stage(depth), 32, 64, stride=2), 64, num_classes))


def _stage(n: int, channels_in: int, channels: int, stride: int) -> nn.Sequential:
    first = BasicBlock(channels_in, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(n - 1)))


def _blocks_a_stage(depth: int) -> int:
    n, rest = divmod(depth - 2, 6)
    if rest or n < 1:
        raise ValueError(f"A CIFAR ResNet has depth 6n+2, not {depth}: try 20, 32, 44, 56 or 110.")
    return n


def initialised(module: nn.Module) -> nn.Module:
    """Convolutions N(0, 2 / (kh kw out_channels)); BN and linear layers keep PyTorch's defaults."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            kh, kw = layer.kernel_size
            nn.init.normal_(layer.weight, std=math.sqrt(2 / (kh * kw * layer.out_channels)))
    return module
