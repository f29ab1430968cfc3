"""torch.compile for networks in training: a deep network compiles in the time of its few distinct blocks."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import cast

import torch
from torch import nn

from spacte_core.models.cifar_resnet import BasicBlock

_VARIANTS = 128
"""Compiled variants of one block's code: by channels, stride, mode, which gradients are wanted and the size of crops.
Chosen: five shapes of block, two modes, two sets of gradients and five sizes are 100; PyTorch's limit is 8."""


def compile_network(net: nn.Module) -> nn.Module:
    """The network with its repeated blocks compiled in place, or compiled as a whole where it has none.

    Blocks of the same shapes share what is compiled. The state's names are those of the network as it was given.
    """
    blocks = blocks_of(net)
    if not blocks:
        return cast("nn.Module", torch.compile(net))
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _VARIANTS)  # noqa: SLF001
    for block in blocks:
        block.compile(dynamic=False)
    return net


def blocks_of(net: nn.Module) -> list[nn.Module]:
    """The blocks that a deep network repeats."""
    from torchvision.models.resnet import Bottleneck  # torchvision takes a second to import

    return [module for module in net.modules() if isinstance(module, BasicBlock | Bottleneck)]


@contextmanager
def uncompiled(compiled: bool) -> Iterator[None]:
    """Run what has been compiled as it was written: for shapes that are too rare to compile for."""
    with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
        yield
