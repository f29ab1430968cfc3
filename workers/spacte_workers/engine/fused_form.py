"""GPU kernels in bfloat16: convolution, bias, residual and ReLU in one pass over the maps.

Layers of few channels run in kernels of ours (`spacte_trainer.native.gpu_conv`), the others in cuDNN's fused ones.
"""

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor, fx, nn

from .fusing import FusedConv, fused_convs


def kernels_of(graph_module: fx.GraphModule) -> dict[str, nn.Module]:
    """The kernel of each fused step of a float32 graph that has one, by the step's name."""
    found: dict[str, nn.Module] = {}
    own = _own_kernels()
    for node, step in fused_convs(graph_module):
        if own is not None and _narrow(step.conv, own):
            found[str(node.target)] = NarrowConv(step, own)
        elif step.relu and step.conv.bias is not None:
            found[str(node.target)] = CudnnConv(step)
    return found


class NarrowConv(nn.Module):
    """One fused step of few channels; sums, bias and residual are in float32.

    Args:
        step: what to compute; its weights are rounded to bfloat16.
        kernels: the module of the kernels.
    """

    def __init__(self, step: FusedConv, kernels: ModuleType) -> None:
        super().__init__()
        conv = step.conv
        self.kernels = kernels
        self.stride, self.relu = int(conv.stride[0]), step.relu
        group = kernels.GROUPS.get((conv.in_channels, conv.out_channels, self.stride), 1)
        self.filter = kernels.Filter.packed(conv.weight.detach().to(torch.bfloat16), self.stride, group)
        self.bias = None if conv.bias is None else conv.bias.detach().float().clone()

    def forward(self, x_BCHW: Tensor, other_BCHW: Tensor | None = None) -> Tensor:
        """relu?(conv(x) + other?)."""
        return self.kernels.convolve(
            x_BCHW, self.filter, stride=self.stride, bias_O=self.bias, other_BCHW=other_BCHW, relu=self.relu
        )


class CudnnConv(nn.Module):
    """One fused step that ends in a ReLU."""

    def __init__(self, step: FusedConv) -> None:
        super().__init__()
        conv = step.conv
        weight = conv.weight.detach().to(torch.bfloat16)
        self.weight = weight.contiguous(memory_format=torch.channels_last)
        self.bias = None if conv.bias is None else conv.bias.detach().to(torch.bfloat16)
        self.geometry = (_pair(conv.stride), _pair(conv.padding), _pair(conv.dilation), conv.groups)

    def forward(self, x_BCHW: Tensor, other_BCHW: Tensor | None = None) -> Tensor:
        """relu(conv(x) + other?)."""
        if other_BCHW is None:
            return torch.cudnn_convolution_relu(x_BCHW, self.weight, self.bias, *self.geometry)
        return torch.cudnn_convolution_add_relu(
            x_BCHW, self.weight, other_BCHW, 1.0, self.bias, *self.geometry
        )


def _own_kernels() -> ModuleType | None:
    try:
        from spacte_trainer.native import gpu_conv
    except ImportError:  # Triton comes with PyTorch's builds for GPUs
        return None
    return gpu_conv


def _narrow(conv: nn.Conv2d, kernels: ModuleType) -> bool:
    """Whether our kernels compute this convolution, and faster than cuDNN's."""
    size, stride = conv.kernel_size, conv.stride
    return (
        size in ((1, 1), (3, 3))
        and stride in ((1, 1), (2, 2))
        and conv.padding == (size[0] // 2, size[0] // 2)
        and (conv.groups, conv.dilation) == (1, (1, 1))
        and conv.in_channels in kernels.CHANNELS_IN
        and conv.out_channels in kernels.CHANNELS
        and (conv.out_channels <= kernels.NARROW or size == (1, 1))
    )


def _pair(values: Sequence[int] | str) -> list[int]:
    return [int(value) for value in values]
