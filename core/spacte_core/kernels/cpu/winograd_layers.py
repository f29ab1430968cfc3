"""3 x 3 convolutions of a float32 network of any width and size in a quarter of the multiplications, layer by layer.

For AVX-512 or AVX2, by Winograd's F(4 x 4, 3 x 3) (`winograd_layers_kernel.cpp`). Chains (`chain.py`) have the narrow
layers, whose maps stay in a core's cache from one to the next; the others are computed here.
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, fx, nn

from spacte_core.hardware import cpu_flags, cpu_info
from spacte_core.kernels.compiler import call, compile_library
from spacte_core.kernels.graph.fusing import FusedConv, fused_convs, shapes

from .targets import forced

_CHANNELS = 8
"""Channels are multiples of this, for the kernel loads as many at once, or twice as many."""

_LEAST_CHANNELS = 16
"""On either side of a convolution that is worth the transforms (benchmarks/results/training_speed.md)."""

_PANEL, _TILE, _PRODUCTS = 16, 4, 36
"""Of the kernel: columns of a matrix that lie together, side of a tile, products of matrices."""

_MOST_PRODUCTS = 0.7
"""Of those of a direct convolution. Chosen: what is saved beyond it pays for the transforms."""


class WinogradLayer(nn.Module):
    """A fused step of a graph in inference, over the weights of the convolution it replaces."""

    def __init__(self, step: FusedConv) -> None:
        super().__init__()
        conv = step.conv
        self.layer = (conv.in_channels, conv.out_channels)
        self.relu, self.in_place = step.relu, step.in_place
        self.bias = None if conv.bias is None else conv.bias.detach().float().contiguous()
        self.u = transformed(conv.weight.detach())

    def forward(self, x_BCHW: Tensor, other_BCHW: Tensor | None = None) -> Tensor:
        """relu?(conv(x) + other?), float32, channels last; over `other` where nothing else reads it."""
        x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        if other_BCHW is not None:
            other_BCHW = other_BCHW.contiguous(memory_format=torch.channels_last)
        into = other_BCHW if self.in_place else None
        return convolve(x_BCHW, self.u, self.layer[1], bias=self.bias, other=other_BCHW, relu=self.relu, into=into)


def convolve(
    x_BCHW: Tensor,
    u: Tensor,
    channels: int,
    *,
    bias: Tensor | None = None,
    other: Tensor | None = None,
    relu: bool = False,
    into: Tensor | None = None,
) -> Tensor:
    """relu?(conv(x) + bias? + other?).

    Args:
        x_BCHW: float32 or bfloat16, channels last, as `other` is, [B, channels, H, W].
        u: weights as `transformed` gives them; in bfloat16 for maps in bfloat16 alone.
        channels: of the result.
        bias: [channels].
        other: what is added to it.
        relu: whether the result passes a ReLU.
        into: where the result is written, perhaps `other`; None: a new tensor.
    """
    kernel, threads = cast("ctypes.CDLL", library()), torch.get_num_threads()
    size = (x_BCHW.shape[2], x_BCHW.shape[3], x_BCHW.shape[1], channels)
    if into is None:
        shape = (len(x_BCHW), channels, *x_BCHW.shape[2:])
        into = torch.empty(shape, dtype=x_BCHW.dtype, memory_format=torch.channels_last)
    arguments = (relu, len(x_BCHW), *size, threads, scratch(size, threads, u.dtype), into)
    halves = (x_BCHW.dtype == torch.bfloat16, u.dtype == torch.bfloat16)
    call(kernel.spacte_winograd_forward, *halves, x_BCHW, u, bias, other, *arguments)
    return into


def to_winograd_layers(graph_module: fx.GraphModule, some_rows: Tensor) -> bool:
    """Replace the steps of a fused float32 graph that the kernel computes, for inputs like `some_rows`.

    Returns whether there were any.
    """
    if library() is None:
        return False
    seen = shapes(graph_module, some_rows)
    taken = [(node, step) for node, step in fused_convs(graph_module) if takes_layer(step.conv, seen[node])]
    for node, step in taken:
        graph_module.set_submodule(str(node.target), WinogradLayer(step))
    return bool(taken)


def fits_layer(conv: nn.Conv2d) -> bool:
    """Whether the kernel computes a convolution like this, for float32 maps; its bias is added where there is one."""
    geometry = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    return (
        type(conv) is nn.Conv2d
        and geometry == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")
        and not (conv.in_channels % _CHANNELS or conv.out_channels % _CHANNELS)
        and min(conv.in_channels, conv.out_channels) >= _LEAST_CHANNELS
        and conv.weight.dtype == torch.float32
    )


def takes_layer(conv: nn.Conv2d, result_BCHW: torch.Size) -> bool:
    """Whether the kernel computes a convolution with a result of this shape, and saves enough products by it."""
    if len(result_BCHW) != 4:
        return False
    height, width = result_BCHW[2:]
    tiles = -(-height // _TILE) * -(-width // _TILE)
    return fits_layer(conv) and tiles * _PRODUCTS <= _MOST_PRODUCTS * height * width * 9


def transformed(weight_OIHW: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """G g G^T in the kernel's panels, in float32 or rounded to bfloat16."""
    u = _room(weight_OIHW, dtype)
    _transform(weight_OIHW, u, None, dtype)
    return u


def transposed(weight_OIHW: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The transposes of G g G^T, in panels of their own: for the gradient of maps."""
    u = _room(weight_OIHW, dtype)
    _transform(weight_OIHW, None, u, dtype)
    return u


def _room(weight_OIHW: Tensor, dtype: torch.dtype) -> Tensor:
    out, into = weight_OIHW.shape[:2]
    return torch.empty(_PRODUCTS * (-(-out // _PANEL) * _PANEL) * (-(-into // _PANEL) * _PANEL), dtype=dtype)


def _transform(weight_OIHW: Tensor, u: Tensor | None, u_transposed: Tensor | None, dtype: torch.dtype) -> None:
    out, into = weight_OIHW.shape[:2]
    sizes = (*weight_OIHW.stride(), into, out, torch.get_num_threads())
    kernel = cast("ctypes.CDLL", library())
    call(kernel.spacte_winograd_weights, dtype == torch.bfloat16, weight_OIHW, *sizes, u, u_transposed)


def scratch(layer: tuple[int, int, int, int], threads: int, factors: torch.dtype) -> Tensor:
    """Memory for a step: of maps of a height and width, with channels in and out, and of a product's factors."""
    values = call(cast("ctypes.CDLL", library()).spacte_winograd_step_scratch, factors == torch.bfloat16, *layer)
    return floats(threads * values)


def floats(*shape: int) -> Tensor:
    """Memory for the kernel, whatever PyTorch's default type is."""
    return torch.empty(shape, dtype=torch.float32)


def halves() -> bool:
    """Whether products of factors in bfloat16 run here, and take half the time of those in float32.

    They do on AMD's processors with AVX-512 BF16. Intel's have one unit for them, and two for float32.
    """
    return _halves(forced())


@cache
def _halves(target: str | None) -> bool:
    found = _library(target)
    amd = cpu_info().get("vendor_id") == "AuthenticAMD"
    return amd and target in (None, "avx512") and found is not None and bool(found.spacte_winograd_halves())


def library() -> ctypes.CDLL | None:
    """The compiled kernel; None on a machine with neither AVX-512 nor AVX2, or no compiler."""
    return _library(forced())


@cache
def _library(target: str | None) -> ctypes.CDLL | None:
    """Kept by what `SPACTE_CPU` says: every step asks, and the processor's flags are long to read."""
    narrow = target in ("avx2", "avx_vnni") or not {"avx512f", "avx512bw"} <= cpu_flags()
    options = ("-mavx2", "-mfma", "-mtune=native") if narrow else ("-march=native",)
    source = Path(__file__).with_name("winograd_layers_kernel.cpp")
    found = compile_library(source, *options, "-fopenmp", "-ffp-contract=off", needs=("avx2", "fma"))
    if found is not None:
        found.spacte_winograd_step_scratch.restype = found.spacte_winograd_halves.restype = ctypes.c_int64
    return found
