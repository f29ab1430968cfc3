"""The form of every base classifier: normalise, run the shared backbone once, and let L heads answer."""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Net = TypeVar("Net", bound=nn.Module)


class MultiHeadNet(nn.Module):
    """normalize -> backbone -> L heads. The **sum** of the head logits decides.

    Attributes:
        normalize: [0, 1] pixels -> what the backbone sees; noise is added before it, so that radii are in pixel units.
        backbone: shared by all heads.
        heads: `nn.ModuleList` of L heads, each of which maps the backbone's features to logits_BK.
    """

    def __init__(self, normalize: nn.Module, backbone: nn.Module, heads: Iterable[nn.Module]) -> None:
        super().__init__()
        self.normalize = normalize
        self.backbone = backbone
        self.heads = nn.ModuleList(heads)

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        """Logits_BK of every head for pixels in [0, 1] (noisy ones may lie outside)."""
        features = self.backbone(self.normalize(x_BCHW))
        return [head(features) for head in self.heads]


class Head(nn.Module):
    """A last stage of its own, the global average of its map, and a linear layer."""

    def __init__(self, blocks: nn.Module, features: int, num_classes: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.fc = nn.Linear(features, num_classes)

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """Logits_BK."""
        return self.fc(self.blocks(h_BCHW).mean(dim=(2, 3)))


class Pick(nn.Module):
    """One head of a network that computes the logits of all heads at once."""

    def __init__(self, head: int) -> None:
        super().__init__()
        self.head = head

    def forward(self, logits_BLK: Tensor) -> Tensor:
        """Logits_BK of this head."""
        return logits_BLK[:, self.head]


def unwrapped(net: nn.Module) -> MultiHeadNet:
    """The network inside a data-parallel wrapper, or itself: for its heads and for passes that train nothing.

    Compile inside the wrapper, `DistributedDataParallel(torch.compile(net))`.
    """
    return cast(MultiHeadNet, net.module if isinstance(net, DistributedDataParallel) else net)


def shared_copy(net: Net) -> Net:
    """A network of the same layers over the same parameters and buffers: training one trains both.

    Layers of the copy can be replaced, compiled or put into another mode; those of `net` stay as they are.
    """
    return copy.deepcopy(net, {id(shared): shared for shared in (*net.parameters(), *net.buffers())})


@contextmanager
def frozen_eval(net: nn.Module) -> Iterator[nn.Module]:
    """Eval mode with constant parameters; every mode and `requires_grad` comes back, also on error."""
    modes = [(module, module.training) for module in net.modules()]
    trainable = [p for p in net.parameters() if p.requires_grad]
    net.eval()
    try:
        for p in trainable:
            p.requires_grad_(False)
        yield net
    finally:
        for p in trainable:
            p.requires_grad_(True)
        for module, mode in modes:
            module.training = mode


def stack_logits(logits: list[Tensor]) -> Tensor:
    """Head logits as one z_LNK in float32 or better, so that no loss is computed in half precision."""
    z_LNK = torch.stack(logits)
    return z_LNK if z_LNK.dtype == torch.float64 else z_LNK.float()
