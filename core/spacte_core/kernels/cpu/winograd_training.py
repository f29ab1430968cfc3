"""3 x 3 convolutions of a network in training in a quarter of the multiplications, on CPUs with AVX-512 or AVX2.

The convolution and both its gradients, by Winograd's F(4 x 4, 3 x 3): what autograd would do with the transforms of
`winograd_layers_kernel.cpp`, with neither V nor M of a whole map in memory. Under autocast the maps are in bfloat16,
and a machine with AMX leaves its matrix units to oneDNN. Products are in float32, or of factors that are rounded to
bfloat16 after their transforms, summed in float32, where those take half the time: a result is then off by about 1 % in
the 2-norm, and so are gradients (benchmarks/results/training_speed.md).
"""

import ctypes
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from spacte_core.kernels.compiler import call

from .training_layers import TrainingConv, channels_last, differentiable_gradients, is_halved, learns, replace_layers
from .winograd_layers import convolve, fits_layer, floats, halves, library, scratch, transformed, transposed


def known(conv: nn.Conv2d) -> bool:
    """Whether the kernel computes this layer, for float32 maps."""
    return conv.bias is None and fits_layer(conv)


def factors(x_BCHW: Tensor) -> torch.dtype:
    """The type of a product's factors, for maps like these."""
    return torch.bfloat16 if x_BCHW.dtype == torch.bfloat16 and halves() else torch.float32


class Convolution(torch.autograd.Function):
    """conv2d(x, weight, padding=1)."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, weight_OIHW: Tensor) -> Tensor:
        ctx.save_for_backward(x_BCHW, weight_OIHW)  # a copy of x would be no input to differentiate by
        x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        return convolve(x_BCHW, transformed(weight_OIHW, factors(x_BCHW)), len(weight_OIHW))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_BCHW, weight_OIHW = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        if torch.is_grad_enabled():  # this gradient is differentiated in turn
            return differentiable_gradients(x_BCHW, weight_OIHW, gradients[0], wanted, stride=1, padding=1)
        x_BCHW, dy_BCHW = channels_last(x_BCHW, gradients[0])
        size = (x_BCHW.shape[2], x_BCHW.shape[3], x_BCHW.shape[1], len(weight_OIHW))
        threads = min(torch.get_num_threads(), len(x_BCHW))  # each takes whole images
        u_transposed = transposed(weight_OIHW, factors(x_BCHW))
        dx_BCHW = torch.empty_like(x_BCHW) if wanted[0] else None
        d_weight = floats(*weight_OIHW.shape) if wanted[1] else None
        sums = floats(threads, u_transposed.numel()) if wanted[1] else None
        arguments = (len(x_BCHW), *size, threads, scratch(size, threads, u_transposed.dtype), sums, dx_BCHW, d_weight)
        kernel = cast("ctypes.CDLL", library())
        halves = (x_BCHW.dtype == torch.bfloat16, u_transposed.dtype == torch.bfloat16)
        call(kernel.spacte_winograd_backward, *halves, x_BCHW, dy_BCHW, u_transposed, *arguments)
        return dx_BCHW, d_weight


class WinogradConv(TrainingConv):
    """By the kernel for maps in float32, and in bfloat16 under autocast."""

    function = Convolution

    def fits(self, x_BCHW: Tensor) -> bool:
        """Whether the kernel computes this step."""
        if not learns(self.conv, x_BCHW):
            return False
        autocast = torch.is_autocast_enabled("cpu")
        typed = is_halved(x_BCHW) if autocast else x_BCHW.dtype == torch.float32
        return typed and library() is not None


def winograd_convolutions(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Let the kernel compute the convolutions that it knows. Changes its argument; parameters keep their order."""
    return replace_layers(graph_module, nn.Conv2d, known, WinogradConv) if library() is not None else graph_module
