"""CPU kernels: convolution, residual and ReLU in one oneDNN call, float32 or bfloat16, weights packed once.

The calls are the ones that PyTorch's own compiler emits. They are no public API, so the engine uses this form only
after it has given the same votes as the plain one on the machine at hand.
"""
# ruff: noqa: SLF001  the calls have no public names

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, fx, nn

from spacte_core.kernels.graph.fusing import FusedConv, fused_convs, shapes


class OneDnnConv(nn.Module):
    """One fused step. Its weights are packed for one input shape, the batch's.

    Args:
        step: what to compute.
        shape_BCHW: shape of its input.
        dtype: float32 or bfloat16.
    """

    def __init__(self, step: FusedConv, shape_BCHW: Sequence[int], dtype: torch.dtype) -> None:
        super().__init__()
        conv = step.conv
        stride, padding, dilation = list(conv.stride), [int(side) for side in conv.padding], list(conv.dilation)
        weight = conv.weight.to(dtype).contiguous(memory_format=torch.channels_last)
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(
            weight, padding, stride, dilation, conv.groups, list(shape_BCHW)
        )
        self.bias = None if conv.bias is None else conv.bias.to(dtype)
        self.geometry = (padding, stride, dilation, conv.groups)
        self.relu = step.relu
        self.in_place = step.in_place

    def forward(self, x_BCHW: Tensor, other_BCHW: Tensor | None = None) -> Tensor:
        """relu?(conv(x) + other?), written over `other` where the step allows."""
        ops, conv = torch.ops.mkldnn, (self.weight, self.bias, *self.geometry)
        if other_BCHW is None:
            return ops._convolution_pointwise(x_BCHW, *conv, "relu" if self.relu else "none", [], "")
        after = ("add", 1.0, "relu" if self.relu else None, [], "")  # after a sum, "none" is refused
        if self.in_place:
            return ops._convolution_pointwise_.binary(other_BCHW, x_BCHW, *conv, *after)
        return ops._convolution_pointwise.binary(x_BCHW, other_BCHW, *conv, *after)


def to_onednn(graph_module: fx.GraphModule, some_rows: Tensor, batch: int) -> fx.GraphModule:
    """Replace the fused steps of a graph, for `batch` rows like `some_rows`, by oneDNN kernels of its dtype."""
    seen = shapes(graph_module, some_rows)
    for node, step in fused_convs(graph_module):
        shape = (batch, *seen[cast(fx.Node, node.args[0])][1:])
        graph_module.set_submodule(str(node.target), OneDnnConv(step, shape, some_rows.dtype))
    graph_module.recompile()
    return graph_module
