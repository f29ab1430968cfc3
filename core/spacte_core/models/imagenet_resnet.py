"""The ImageNet ResNet-50, split before layer4 into a backbone and L heads; the blocks are torchvision's.

Its bottlenecks have their stride on the 3x3 convolution. Convolutions start at N(0, 2 / (kh kw out_channels)), which
torchvision calls Kaiming normal with fan-out.
"""

from collections import OrderedDict

from torch import nn
from torchvision.models.resnet import Bottleneck, conv1x1, resnet50

from .multihead import Head


def backbone() -> nn.Module:
    """7x7/2 stem, 3x3/2 max-pool and layers 1 to 3: 1,024 channels at 1/16 of the resolution."""
    whole = resnet50()
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")
    return nn.Sequential(OrderedDict((name, whole.get_submodule(name)) for name in names))


def head(num_classes: int) -> nn.Module:
    """A layer4 of its own (3 bottlenecks, 1,024 -> 2,048, stride 2), global average, linear layer."""
    shortcut = nn.Sequential(conv1x1(1024, 2048, stride=2), nn.BatchNorm2d(2048))
    blocks = nn.Sequential(Bottleneck(1024, 512, 2, shortcut), Bottleneck(2048, 512), Bottleneck(2048, 512))
    for layer in blocks.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return Head(blocks, 2048, num_classes)
