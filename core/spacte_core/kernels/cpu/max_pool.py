"""Max pooling over windows of 2 x 2 in training, on CPUs: its gradient is written once, where PyTorch fills it first.

`max_pool_kernel.cpp` computes it, for maps in float32 or bfloat16. Values and gradients are PyTorch's to the bit.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from spacte_core.kernels.compiler import call, compile_library

from .training_layers import channels_last, learns, replace_layers

SOURCE = Path(__file__).with_name("max_pool_kernel.cpp")
OPTIONS = ("-march=native", "-fopenmp")

_CHANNELS = 16
"""Channels are multiples of this, the lanes of a register."""


class MaxPool(torch.autograd.Function):
    """max_pool2d(x, 2) of maps [B, C, H, W] in channels-last layout."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor) -> Tensor:
        batch, channels, height, width = x_BCHW.shape
        y_BChw = _maps((batch, channels, height // 2, width // 2), x_BCHW.dtype)
        which_BChw = torch.empty_like(y_BChw, dtype=torch.uint8)
        _run("forward", x_BCHW, x_BCHW, y_BChw, which_BChw)
        ctx.shape = x_BCHW.shape
        ctx.save_for_backward(which_BChw)
        return y_BChw

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (which_BChw,), (dy_BChw,) = ctx.saved_tensors, gradients
        if torch.is_grad_enabled():  # this gradient is differentiated in turn
            return _differentiable(dy_BChw, which_BChw, ctx.shape)
        (dy_BChw,) = channels_last(dy_BChw)
        dx_BCHW = _maps(ctx.shape, dy_BChw.dtype)
        _run("backward", dx_BCHW, dy_BChw, which_BChw, dx_BCHW)
        return dx_BCHW


class TrainingMaxPool(nn.Module):
    """A max pooling by the kernel, or by the layer that it replaces where the kernel does not fit."""

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The largest value of each window."""
        return cast("Tensor", MaxPool.apply(x_BCHW)) if self.fits(x_BCHW) else self.pool(x_BCHW)

    def fits(self, x_BCHW: Tensor) -> bool:
        """Whether the kernel computes this step: its gradient is wanted, in a layout and a type that it knows."""
        return (
            learns(self.pool, x_BCHW)
            and x_BCHW.dtype in (torch.float32, torch.bfloat16)
            and x_BCHW.is_contiguous(memory_format=torch.channels_last)
            and x_BCHW.shape[1] % _CHANNELS == 0
            and min(x_BCHW.shape[2:]) > 1
            and compile_library(SOURCE, *OPTIONS) is not None
        )


def known(pool: nn.Module) -> bool:
    """Whether the kernel computes this layer: windows of 2 x 2 that do not overlap."""
    if type(pool) is not nn.MaxPool2d or pool.ceil_mode or pool.return_indices:
        return False
    geometry = (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
    return all(given in (wanted, (wanted, wanted)) for given, wanted in zip(geometry, (2, 2, 0, 1), strict=True))


def max_pools(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Let the kernel compute the poolings that it knows. Changes its argument."""
    return replace_layers(graph_module, nn.MaxPool2d, known, TrainingMaxPool)


def _differentiable(dy_BChw: Tensor, which_BChw: Tensor, shape: torch.Size) -> Tensor:
    """The gradient by PyTorch's operations."""
    _, _, height, width = shape
    rows_h1 = 2 * torch.arange(height // 2)[:, None]
    columns_w = 2 * torch.arange(width // 2)
    place_BChw = (rows_h1 + which_BChw // 2) * width + columns_w + which_BChw % 2
    flat_BCN = dy_BChw.new_zeros(*shape[:2], height * width)
    return flat_BCN.scatter(2, place_BChw.flatten(2), dy_BChw.flatten(2)).unflatten(2, (height, width))


def _maps(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(tuple(shape), dtype=dtype, memory_format=torch.channels_last)


def _run(function: str, map_BCHW: Tensor, *arguments: Tensor) -> None:
    """Call a function of the kernel on maps whose windows are those of `map_BCHW`."""
    kernel = cast("ctypes.CDLL", compile_library(SOURCE, *OPTIONS))  # `fits` has made sure
    batch, channels, height, width = map_BCHW.shape
    size = (map_BCHW.dtype == torch.bfloat16, batch, height, width, channels, torch.get_num_threads())
    call(getattr(kernel, f"spacte_max_pool_{function}"), *size, *arguments)
