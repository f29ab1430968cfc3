"""3 x 3 convolutions of a network in training in a quarter of the multiplications, on CPUs with AVX-512 or AVX2.

The convolution and both its gradients, by Winograd's F(4 x 4, 3 x 3) in float32 (`winograd_training_kernel.cpp`): what
autograd would do with `winograd.py`'s transforms, with neither V nor M of a whole map in memory.
"""

import ctypes
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from spacte_core.kernels.compiler import call
from spacte_core.kernels.graph.folding import layer_of, recompile

from .winograd import compile_winograd

_CHANNELS = 8
"""Channels are multiples of this, for the kernel loads as many at once, or twice as many."""

_LEAST_CHANNELS = 16
"""On either side of a convolution that is worth the transforms (benchmarks/results/training_speed.md)."""


class WinogradConv(nn.Module):
    """A convolution over the weights of the layer it replaces."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The convolution of float32 maps on a CPU by the kernel, and of all others by PyTorch."""
        if not fits(self.conv, x_BCHW):
            return self.conv(x_BCHW)
        return cast("Tensor", Convolution.apply(x_BCHW, self.conv.weight))


def winograd_convolutions(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Let the kernel compute the convolutions that it knows. Changes its argument; parameters keep their order."""
    if library() is None:
        return graph_module
    for node in graph_module.graph.nodes:
        conv = layer_of(graph_module, node)
        if isinstance(conv, nn.Conv2d) and known(conv):
            graph_module.set_submodule(str(node.target), WinogradConv(conv))
    return recompile(graph_module)


def known(conv: nn.Conv2d) -> bool:
    """Whether the kernel computes this layer, for float32 maps."""
    geometry = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    return (
        type(conv) is nn.Conv2d
        and geometry == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")
        and conv.bias is None
        and not (conv.in_channels % _CHANNELS or conv.out_channels % _CHANNELS)
        and min(conv.in_channels, conv.out_channels) >= _LEAST_CHANNELS
        and conv.weight.dtype == torch.float32
    )


def fits(conv: nn.Conv2d, x_BCHW: Tensor) -> bool:
    """Whether the kernel computes this step: a gradient is wanted, of float32 maps on a CPU."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    wanted = torch.is_grad_enabled() and (x_BCHW.requires_grad or conv.weight.requires_grad)
    return wanted and x_BCHW.device.type == "cpu" and x_BCHW.dtype == torch.float32 and x_BCHW.numel() > 0


class Convolution(torch.autograd.Function):
    """conv2d(x, weight, padding=1)."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, weight_OIHW: Tensor) -> Tensor:
        x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        layer, threads = _layer(x_BCHW, weight_OIHW), torch.get_num_threads()
        u, transposed = _transformed(weight_OIHW, threads)
        shape = (len(x_BCHW), len(weight_OIHW), *x_BCHW.shape[2:])
        y_BCHW = torch.empty(shape, memory_format=torch.channels_last)
        kernel = cast("ctypes.CDLL", library())
        call(kernel.spacte_winograd_forward, x_BCHW, u, len(x_BCHW), *layer, threads, _scratch(layer, threads), y_BCHW)
        ctx.save_for_backward(x_BCHW, weight_OIHW, transposed)
        return y_BCHW

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_BCHW, weight_OIHW, transposed = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        if torch.is_grad_enabled():  # this gradient is differentiated in turn
            inputs = [value for value, needed in zip((x_BCHW, weight_OIHW), wanted, strict=True) if needed]
            again = functional.conv2d(x_BCHW, weight_OIHW, padding=1)
            found = iter(torch.autograd.grad(again, inputs, gradients[0], create_graph=True))
            return tuple(next(found) if needed else None for needed in wanted)
        dy_BCHW = gradients[0].contiguous(memory_format=torch.channels_last)
        layer, threads = _layer(x_BCHW, weight_OIHW), torch.get_num_threads()
        dx_BCHW = torch.empty_like(x_BCHW) if wanted[0] else None
        d_weight = torch.empty(weight_OIHW.shape) if wanted[1] else None
        sums = torch.empty(threads, transposed.numel()) if wanted[1] else None
        arguments = (len(x_BCHW), *layer, threads, _scratch(layer, threads), sums, dx_BCHW, d_weight)
        kernel = cast("ctypes.CDLL", library())
        call(kernel.spacte_winograd_backward, x_BCHW, dy_BCHW, transposed, *arguments)
        return dx_BCHW, d_weight


def _layer(x_BCHW: Tensor, weight_OIHW: Tensor) -> tuple[int, int, int, int]:
    """Height, width, channels in and out, as the kernel's functions take them."""
    return (x_BCHW.shape[2], x_BCHW.shape[3], x_BCHW.shape[1], len(weight_OIHW))


def _transformed(weight_OIHW: Tensor, threads: int) -> tuple[Tensor, Tensor]:
    """G g G^T in the kernel's panels, and its transposes in panels of their own."""
    out, into = weight_OIHW.shape[:2]
    values = 36 * (-(-out // 16) * 16) * (-(-into // 16) * 16)
    u, transposed = torch.empty(values), torch.empty(values)
    sizes = (*weight_OIHW.stride(), into, out, threads)
    call(cast("ctypes.CDLL", library()).spacte_winograd_weights, weight_OIHW, *sizes, u, transposed)
    return u, transposed


def _scratch(layer: tuple[int, int, int, int], threads: int) -> Tensor:
    return torch.empty(threads * call(cast("ctypes.CDLL", library()).spacte_winograd_step_scratch, *layer))


def library() -> ctypes.CDLL | None:
    """The compiled kernel; None on a machine with neither AVX-512 nor AVX2, or no compiler."""
    found = compile_winograd("winograd_training_kernel.cpp")
    if found is not None:
        found.spacte_winograd_step_scratch.restype = ctypes.c_int64
    return found
