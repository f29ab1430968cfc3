"""A second network over the same weights, whose layers can be exchanged without touching the first."""

import copy
from typing import TypeVar

from torch import nn

Net = TypeVar("Net", bound=nn.Module)


def shared_copy(net: Net) -> Net:
    """A network of the same classes and layers over the same parameters and buffers: training one trains both.

    Layers of the copy can be replaced, compiled or put into another mode; those of `net` stay as they are.
    """
    twin = copy.copy(net)
    children = {name: None if child is None else shared_copy(child) for name, child in net._modules.items()}  # noqa: SLF001
    twin.__dict__["_modules"] = children
    return twin
