"""CPU kernels: convolution, residual and ReLU in one oneDNN call, float32 or bfloat16, weights packed once.

The calls are the ones that PyTorch's own compiler emits; they are no public API, so the engine uses this
form only after it has given the same votes as the plain one on the machine at hand.
"""
# ruff: noqa: SLF001  the calls have no public names

from typing import cast

import torch
from torch import Tensor, fx, nn

from spacte_core.kernels.graph.fusing import FusedConv, fused_convs, shapes

CHANNELS_LAST = torch.channels_last


class OneDnnConv(nn.Module):
    """One fused step. Its weights are packed for one input shape, the batch's.

    Args:
        step: what to compute.
        shape_BCHW: shape of its input.
        dtype: float32 or bfloat16.
    """

    def __init__(self, step: FusedConv, shape_BCHW: torch.Size, dtype: torch.dtype) -> None:
        super().__init__()
        conv = step.conv
        self.stride, self.padding, self.dilation = list(conv.stride), _pair(conv.padding), list(conv.dilation)
        self.groups = conv.groups
        weight = conv.weight.to(dtype).contiguous(memory_format=CHANNELS_LAST)
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(
            weight, self.padding, self.stride, self.dilation, self.groups, list(shape_BCHW)
        )
        self.bias = None if conv.bias is None else conv.bias.to(dtype)
        self.unary = "relu" if step.relu else "none"
        self.in_place = step.in_place

    def forward(self, x_BCHW: Tensor, other_BCHW: Tensor | None = None) -> Tensor:
        """relu?(conv(x) + other?), written over `other` where the step allows."""
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        ops = torch.ops.mkldnn
        if other_BCHW is None:
            return ops._convolution_pointwise(x_BCHW, self.weight, self.bias, *geometry, self.unary, [], "")
        after = ("add", 1.0, self.unary, [], "")
        if self.in_place:
            return ops._convolution_pointwise_.binary(other_BCHW, x_BCHW, self.weight, self.bias, *geometry, *after)
        return ops._convolution_pointwise.binary(x_BCHW, other_BCHW, self.weight, self.bias, *geometry, *after)


def to_onednn(graph_module: fx.GraphModule, some_rows: Tensor, batch: int) -> fx.GraphModule:
    """Replace the fused steps of a graph by oneDNN kernels for one batch size; changes its argument.

    Args:
        graph_module: a fused graph, already in the dtype it is to run in.
        some_rows: a few rows of input, to see the shapes on the way.
        batch: rows of each later call.
    """
    seen = shapes(graph_module, some_rows)
    for node, step in fused_convs(graph_module):
        shape = torch.Size([batch, *seen[cast(fx.Node, node.args[0])][1:]])
        graph_module.set_submodule(str(node.target), OneDnnConv(step, shape, some_rows.dtype))
    graph_module.recompile()
    return graph_module


def _pair(padding: object) -> list[int]:
    if not isinstance(padding, tuple):
        raise TypeError(f"padding {padding!r} is no pair of numbers")
    return [int(p) for p in padding]
