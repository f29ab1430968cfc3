"""3 x 3 convolutions of a network in training in a quarter of the multiplications, on CPUs with AVX-512 or AVX2.

The convolution and both its gradients, by Winograd's F(4 x 4, 3 x 3): what autograd would do with the transforms of
`winograd_layers_kernel.cpp`, with neither V nor M of a whole map in memory. Products are in float32; under autocast the
maps are in bfloat16, weights are not rounded, and a machine with AMX leaves its matrix units to oneDNN.
"""

import ctypes
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from spacte_core.hardware import cpu_flags
from spacte_core.kernels.compiler import call
from spacte_core.kernels.graph.folding import layer_of, recompile

from .winograd_layers import convolve, fits_layer, floats, library, scratch, transformed, transposed


class WinogradConv(nn.Module):
    """A convolution over the weights of the layer it replaces."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The convolution of maps on a CPU by the kernel, and of all others by PyTorch."""
        if not fits(self.conv, x_BCHW):
            return self.conv(x_BCHW)
        x_BCHW = x_BCHW.bfloat16() if torch.is_autocast_enabled("cpu") else x_BCHW
        return cast("Tensor", Convolution.apply(x_BCHW, self.conv.weight))


def winograd_convolutions(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Let the kernel compute the convolutions that it knows. Changes its argument; parameters keep their order."""
    if library() is None:
        return graph_module
    read = {str(node.target).rpartition(".")[0] for node in graph_module.graph.nodes if node.op == "get_attr"}
    for node in graph_module.graph.nodes:
        conv = layer_of(graph_module, node)
        if isinstance(conv, nn.Conv2d) and known(conv) and str(node.target) not in read:  # for weights keep their names
            graph_module.set_submodule(str(node.target), WinogradConv(conv))
    return recompile(graph_module)


def known(conv: nn.Conv2d) -> bool:
    """Whether the kernel computes this layer, for float32 maps."""
    return conv.bias is None and fits_layer(conv)


def fits(conv: nn.Conv2d, x_BCHW: Tensor) -> bool:
    """Whether the kernel computes this step: a gradient is wanted, of maps on a CPU in a type that it knows.

    What is asked of PyTorch's layer itself (hooks, another type or device) is its to do.
    """
    if torch.compiler.is_compiling() or not x_BCHW.numel() or _has_hooks(conv) or library() is None:
        return False
    if {x_BCHW.device.type, conv.weight.device.type} != {"cpu"} or conv.weight.dtype != torch.float32:
        return False
    types = (torch.float32,)
    if torch.is_autocast_enabled("cpu"):
        types = (torch.float32, torch.bfloat16)
        if torch.get_autocast_dtype("cpu") != torch.bfloat16 or "amx_bf16" in cpu_flags():
            return False
    return torch.is_grad_enabled() and (x_BCHW.requires_grad or conv.weight.requires_grad) and x_BCHW.dtype in types


def _has_hooks(conv: nn.Conv2d) -> bool:
    """Whether a call of the layer does more than its convolution, such as making its weights."""
    hooks = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return any(getattr(conv, name) for name in hooks)


class Convolution(torch.autograd.Function):
    """conv2d(x, weight, padding=1)."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, weight_OIHW: Tensor) -> Tensor:
        ctx.save_for_backward(x_BCHW, weight_OIHW)  # a copy of x would be no input to differentiate by
        x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        return convolve(x_BCHW, transformed(weight_OIHW), len(weight_OIHW))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_BCHW, weight_OIHW = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        if torch.is_grad_enabled():  # this gradient is differentiated in turn
            inputs = [value for value, needed in zip((x_BCHW, weight_OIHW), wanted, strict=True) if needed]
            again = functional.conv2d(x_BCHW, weight_OIHW.to(x_BCHW.dtype), padding=1)
            found = iter(torch.autograd.grad(again, inputs, gradients[0], create_graph=True))
            return tuple(next(found) if needed else None for needed in wanted)
        x_BCHW, dy_BCHW = (maps.contiguous(memory_format=torch.channels_last) for maps in (x_BCHW, gradients[0]))
        size = (x_BCHW.shape[2], x_BCHW.shape[3], x_BCHW.shape[1], len(weight_OIHW))
        threads = min(torch.get_num_threads(), len(x_BCHW))  # each takes whole images
        u_transposed = transposed(weight_OIHW)
        dx_BCHW = torch.empty_like(x_BCHW) if wanted[0] else None
        d_weight = floats(*weight_OIHW.shape) if wanted[1] else None
        sums = floats(threads, u_transposed.numel()) if wanted[1] else None
        arguments = (len(x_BCHW), *size, threads, scratch(size, threads), sums, dx_BCHW, d_weight)
        kernel = cast("ctypes.CDLL", library())
        half = x_BCHW.dtype == torch.bfloat16
        call(kernel.spacte_winograd_backward, half, x_BCHW, dy_BCHW, u_transposed, *arguments)
        return dx_BCHW, d_weight
