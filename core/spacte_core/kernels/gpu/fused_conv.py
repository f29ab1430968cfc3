"""GPU kernels in bfloat16: convolution, bias, residual and ReLU in one pass over the maps.

Layers of few channels run in Triton (`triton_conv.py`), the others in cuDNN's fused kernels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from spacte_core.hardware import has_triton
from spacte_core.kernels.graph.fusing import FusedConv, fused_convs

from .narrow_conv import NARROW

CHANNELS_LAST = torch.channels_last


def fused_kernels(graph_module: fx.GraphModule) -> dict[str, nn.Module]:
    """The kernel of each fused step of a float32 graph that has one, by the step's name."""
    found: dict[str, nn.Module] = {}
    for node, step in fused_convs(graph_module):
        if is_narrow(step.conv):
            found[str(node.target)] = NarrowConv(step)
        elif step.relu and step.conv.bias is not None:
            found[str(node.target)] = CudnnConv(step)
    return found


def mostly_narrow(graph_module: fx.GraphModule) -> bool:
    """Whether most convolutions of a graph are narrow: with others, compiled code is as fast."""
    narrow = [is_narrow(step.conv) for _, step in fused_convs(graph_module)]
    return 2 * sum(narrow) > len(narrow)


def is_narrow(conv: nn.Conv2d) -> bool:
    """Whether the Triton kernels compute this convolution, and faster than cuDNN's."""
    size, stride = conv.kernel_size, conv.stride
    return (
        has_triton()
        and size in ((1, 1), (3, 3))
        and stride in ((1, 1), (2, 2))
        and conv.padding == (size[0] // 2, size[0] // 2)
        and (conv.groups, conv.dilation) == (1, (1, 1))
        and conv.in_channels in (3, 16, 32, 64)
        and conv.out_channels in (16, 32, 64)
        and (conv.out_channels <= NARROW or size == (1, 1))
    )


class NarrowConv(nn.Module):
    """One fused step of few channels; sums, bias and residual are in float32.

    Args:
        step: what to compute; its weights are rounded to bfloat16.
    """

    def __init__(self, step: FusedConv) -> None:
        from . import triton_conv  # imports Triton

        super().__init__()
        conv = step.conv
        self.stride, self.relu = int(conv.stride[0]), step.relu
        group = triton_conv.GROUPS.get((conv.in_channels, conv.out_channels, self.stride), 1)
        self.filter = triton_conv.Filter.packed(conv.weight.detach().to(torch.bfloat16), self.stride, group)
        self.bias = None if conv.bias is None else conv.bias.detach().float().clone()
        self.convolve = triton_conv.convolve

    def forward(self, x_BCHW: Tensor, other_BCHW: Tensor | None = None) -> Tensor:
        """relu?(conv(x) + other?)."""
        other = None if other_BCHW is None else other_BCHW.contiguous(memory_format=CHANNELS_LAST)
        x = x_BCHW.contiguous(memory_format=CHANNELS_LAST)
        return self.convolve(x, self.filter, stride=self.stride, bias_O=self.bias, other_BCHW=other, relu=self.relu)


class CudnnConv(nn.Module):
    """One fused step that ends in a ReLU."""

    def __init__(self, step: FusedConv) -> None:
        super().__init__()
        conv = step.conv
        weight = conv.weight.detach().to(torch.bfloat16)
        self.weight = weight.contiguous(memory_format=CHANNELS_LAST)
        self.bias = None if conv.bias is None else conv.bias.detach().to(torch.bfloat16)
        self.geometry = (_pair(conv.stride), _pair(conv.padding), _pair(conv.dilation), conv.groups)

    def forward(self, x_BCHW: Tensor, other_BCHW: Tensor | None = None) -> Tensor:
        """relu(conv(x) + other?)."""
        if other_BCHW is None:
            return torch.cudnn_convolution_relu(x_BCHW, self.weight, self.bias, *self.geometry)
        return torch.cudnn_convolution_add_relu(x_BCHW, self.weight, other_BCHW, 1.0, self.bias, *self.geometry)


def _pair(values: Sequence[int] | str) -> list[int]:
    return [int(value) for value in values]
