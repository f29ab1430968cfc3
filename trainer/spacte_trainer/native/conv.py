"""The narrow 3x3 convolutions of a network in training: on a GPU under bf16 by kernels of ours, else by PyTorch's."""

import torch
from torch import Tensor, nn

from spacte_trainer.native.library import builds_gpu_kernels

NARROW = 32
"""Channels out up to which our kernels are faster than cuDNN's, which is built for more."""


class Kernels:
    """Whether PyTorch knows our kernels, which a traced network may ask."""

    loaded = False


def load_kernels() -> None:
    """Make the kernels known to PyTorch, `torch.ops.spacte`, where they can be built: before a network is compiled."""
    if builds_gpu_kernels():
        from . import conv_operations  # noqa: F401 - registers the operations

        Kernels.loaded = True


def convolved(conv: nn.Conv2d, x_BCHW: Tensor) -> Tensor:
    """conv(x); by our kernels the maps are bfloat16, sums float32, and the weights are rounded as they are read."""
    if fits(conv, x_BCHW):
        return torch.ops.spacte.convolution(x_BCHW.to(torch.bfloat16), conv.weight)
    return conv(x_BCHW)


def fits(conv: nn.Conv2d, x_BCHW: Tensor) -> bool:
    """Whether our kernels compute this convolution."""
    return (
        Kernels.loaded
        and isinstance(x_BCHW, Tensor)  # and no symbol of a trace
        and x_BCHW.is_cuda
        and conv.in_channels == conv.out_channels
        and conv.in_channels % 16 == 0
        and conv.in_channels <= NARROW
        and (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
        and (conv.groups, conv.dilation, conv.bias) == (1, (1, 1), None)
        and torch.is_autocast_enabled("cuda")
    )
