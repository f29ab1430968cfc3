"""Whether a graph computes each row by itself, in an order of its own: the same bits whatever the batch.

A library's convolutions and products choose their order by the batch and the processor. Our kernels do not, and neither
does arithmetic that makes one value of one value.
"""

import operator

import torch
from torch import fx, nn
from torch.nn import functional

from spacte_core.kernels.cpu.chain import ChainKernel
from spacte_core.kernels.cpu.row_by_row import RowByRow
from spacte_core.kernels.cpu.winograd_layers import WinogradLayer
from spacte_core.kernels.int8.layers import Decode, Encode, MaxPoolOfCodes, Scale

_LAYERS = (
    *(ChainKernel, RowByRow, WinogradLayer, Decode, Encode, MaxPoolOfCodes, Scale),
    *(nn.Identity, nn.Flatten, nn.ReLU, nn.Dropout, nn.MaxPool2d),
)
_FUNCTIONS = (
    *(operator.add, operator.iadd, operator.getitem, torch.add, torch.relu, torch.relu_, functional.relu),
    *(torch.flatten, torch.stack, torch.cat, getattr),
)
_METHODS = ("add", "add_", "relu", "relu_", "flatten", "view", "reshape", "size", "unsqueeze", "contiguous")


def is_row_wise(graph_module: fx.GraphModule) -> bool:
    """Whether all of its steps are known to be; sums of codes are exact, so that an average of them is."""
    return all(_row_wise(graph_module, node) for node in graph_module.graph.nodes)


def _row_wise(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    match node.op:
        case "call_module":
            return isinstance(graph_module.get_submodule(str(node.target)), _LAYERS)
        case "call_function":
            return node.target in _FUNCTIONS
        case "call_method":
            return node.target in _METHODS
        case _:
            return True
