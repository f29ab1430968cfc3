"""The narrow 3x3 convolutions of a network in training, on a GPU under bf16, in Triton."""

import torch
from torch import Tensor, nn

NARROW = 32
"""Channels out up to which our kernels are faster than cuDNN's, which is built for more (benchmarks/results/gpu.md)."""


class NarrowConv2d(nn.Conv2d):
    """A convolution that our kernels compute where they fit: maps in bfloat16, sums in float32, weights as they are."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's signature
        """conv(x_BCHW)."""
        if fits(self, input):
            return torch.ops.spacte.convolution(input.to(torch.bfloat16), self.weight)
        return super().forward(input)


def narrow_convolutions(net: nn.Module) -> None:
    """Make every plain convolution inside `net` a `NarrowConv2d`; its weights stay where they are."""
    from . import conv_operations  # noqa: F401 - imports Triton and registers torch.ops.spacte.convolution

    for conv in net.modules():
        if type(conv) is nn.Conv2d:
            conv.__class__ = NarrowConv2d


def fits(conv: nn.Conv2d, x_BCHW: Tensor) -> bool:
    """Whether our kernels compute this convolution."""
    return (
        x_BCHW.is_cuda
        and conv.in_channels == conv.out_channels
        and conv.in_channels % 16 == 0  # what a matrix product in Triton takes
        and conv.in_channels <= NARROW
        and (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
        and (conv.groups, conv.dilation, conv.bias) == (1, (1, 1), None)
        and torch.is_autocast_enabled("cuda")
    )
