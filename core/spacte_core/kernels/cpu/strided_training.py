"""Gradients of a training network's convolutions with a stride of two, for which oneDNN takes twice what they need.

For bfloat16 maps on CPUs with AVX-512's products of pairs of them (`strided_training_kernel.cpp`). The convolution
itself stays oneDNN's, which is near what the processor can do.
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from spacte_core.kernels.compiler import call, compile_library

from .targets import forced
from .training_layers import TrainingConv, channels_last, differentiable_gradients, is_halved, learns, replace_layers
from .winograd_layers import floats

_CHANNELS = 16
"""Channels on either side are multiples of this, the lanes of a register."""

_STRIDE = 2


def known(conv: nn.Conv2d) -> bool:
    """Whether the kernel computes this layer's gradients: 1 x 1, or 3 x 3 padded by one, with a stride of two."""
    side = conv.kernel_size[0]
    geometry = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    return (
        type(conv) is nn.Conv2d
        and side in (1, 3)
        and geometry == ((side, side), (_STRIDE, _STRIDE), (side // 2, side // 2), (1, 1), 1, "zeros")
        and not (conv.in_channels % _CHANNELS or conv.out_channels % _CHANNELS)
        and conv.bias is None
        and conv.weight.dtype == torch.float32
    )


class Convolution(torch.autograd.Function):
    """conv2d(x, weight, stride=2, padding=k // 2) of bfloat16 maps, with weights rounded to bfloat16."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, weight_OIHW: Tensor) -> Tensor:
        ctx.save_for_backward(x_BCHW, weight_OIHW)
        (x_BCHW,) = channels_last(x_BCHW)
        return functional.conv2d(
            x_BCHW, weight_OIHW.to(x_BCHW.dtype), stride=_STRIDE, padding=weight_OIHW.shape[2] // 2
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_BCHW, weight_OIHW = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        out, into, side = weight_OIHW.shape[:3]
        if torch.is_grad_enabled():  # this gradient is differentiated in turn
            return differentiable_gradients(x_BCHW, weight_OIHW, gradients[0], wanted, _STRIDE, side // 2)
        x_BCHW, dy_BCHW = channels_last(x_BCHW, gradients[0])
        kernel = cast("ctypes.CDLL", library())
        layer = (side, *x_BCHW.shape[2:], into, out)
        threads = min(torch.get_num_threads(), len(x_BCHW))  # each takes whole images
        dx_BCHW = torch.empty_like(x_BCHW) if wanted[0] else None
        sums = floats(threads, side, out, side, into) if wanted[1] else None
        memory = floats(threads * call(kernel.spacte_strided_scratch, *layer))
        arguments = (len(x_BCHW), *layer, threads, memory, sums, dx_BCHW)
        call(kernel.spacte_strided_backward, x_BCHW, dy_BCHW, paired(weight_OIHW), *arguments)
        return dx_BCHW, None if sums is None else sums.sum(0).permute(1, 3, 0, 2)


class StridedConv(TrainingConv):
    """Its gradients by the kernel under autocast to bfloat16."""

    function = Convolution

    def fits(self, x_BCHW: Tensor) -> bool:
        """Whether the kernel computes the gradients of this step."""
        return learns(self.conv, x_BCHW) and is_halved(x_BCHW) and library() is not None


def strided_convolutions(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Let the kernel compute the gradients that it knows. Changes its argument; parameters keep their order."""
    return replace_layers(graph_module, nn.Conv2d, known, StridedConv) if library() is not None else graph_module


def paired(weight_OIHW: Tensor) -> Tensor:
    """Weights in bfloat16 as the gradient of maps multiplies them, [side, side, out / 2, in, 2]."""
    out, into, side = weight_OIHW.shape[:3]
    pairs = weight_OIHW.to(torch.bfloat16).permute(2, 3, 0, 1).reshape(side, side, out // 2, 2, into)
    return pairs.transpose(-1, -2).contiguous()


def library() -> ctypes.CDLL | None:
    """The compiled kernel; None on a machine without AVX-512's bfloat16, or held to less, or without a compiler."""
    return _library() if forced() in (None, "avx512") else None


@cache
def _library() -> ctypes.CDLL | None:
    source = Path(__file__).with_name("strided_training_kernel.cpp")
    options = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512bf16", "-mfma", "-mtune=native", "-fopenmp")
    found = compile_library(source, *options, needs=("avx512f", "avx512bw", "avx512vl", "avx512_bf16"))
    if found is not None:
        found.spacte_strided_scratch.restype = ctypes.c_int64
    return found
