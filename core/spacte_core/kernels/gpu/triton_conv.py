"""Convolutions of few channels on a GPU, in Triton: bias, sum and ReLU are applied before the result is written.

cuDNN's kernels want 64 channels and more. With the 16 and 32 of a CIFAR ResNet's first stages they move a tenth of
what the memory can, and its bias, sum and ReLU are passes of their own (benchmarks/results/gpu.md). Here a program
computes a run of output pixels with all output channels, one row of the filter at a time: the pixels under a row of the
filter lie side by side in channels_last memory, so that they are one load and one matrix product. Neighbouring output
pixels share most of what lies under them, so that they can be computed as a group, whose channels then count together.

An output depends on the inputs under its filter alone, in a fixed order of sums: not on its place in the batch.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Self

import torch
import triton
from torch import Tensor

from . import triton_conv_kernels as kernels

DEFAULT = {"BLOCK": 128, "num_warps": 4, "num_stages": 2}
FORWARD: dict[tuple[int, int, int], dict[str, int]] = {
    (3, 16, 2): {"BLOCK": 64, "num_warps": 4, "num_stages": 1},
    (16, 16, 1): {"BLOCK": 128, "num_warps": 8, "num_stages": 1},
    (32, 32, 1): {"BLOCK": 128, "num_warps": 8, "num_stages": 1},
}
"""(channels in, channels out, group) -> the fastest on an H200, where not DEFAULT (benchmarks/results/gpu.md)."""

GROUPS: dict[tuple[int, int, int], int] = {(3, 16, 1): 2, (16, 16, 1): 2, (32, 32, 1): 2}
"""(channels in, channels out, stride) -> the group that is fastest there with packed weights, where that is not 1."""

GRADIENT = {"BLOCK": 128, "num_warps": 4, "num_stages": 1}
PROGRAMS = 132  # of a weight gradient and a filter row, at most: one for each multiprocessor of an H200


@dataclass(frozen=True)
class Filter:
    """A convolution's weights as the kernels read them.

    Attributes:
        weights: in the maps' type where packed, else of any float type.
        channels, out, kernel: channels in and out, and the filter's height and width, 1 or 3.
        group: output pixels computed together.
        strides: (W0, WI, WC, WR, WO) of the kernel; None: packed.
    """

    weights: Tensor
    channels: int
    out: int
    kernel: int
    group: int = 1
    strides: tuple[int, int, int, int, int] | None = None

    @classmethod
    def of(cls, weight_OIKK: Tensor) -> Self:
        """The weights where they are."""
        out, channels, kernel, _ = weight_OIKK.shape
        so, si, sr, sc = weight_OIKK.stride()
        return cls(weight_OIKK, channels, out, kernel, strides=(0, si, sc, sr, so))

    @classmethod
    def transposed(cls, weight_OIKK: Tensor) -> Self:
        """From the gradient of a result to that of its input, for stride 1: turned around, in and out exchanged."""
        out, channels, kernel, _ = weight_OIKK.shape
        so, si, sr, sc = weight_OIKK.stride()
        return cls(weight_OIKK, out, channels, kernel, strides=((kernel - 1) * (sr + sc), so, -sc, -sr, si))

    @classmethod
    def packed(cls, weight_OIKK: Tensor, stride: int = 1, group: int = 1) -> Self:
        """The weights for groups of output pixels, [kernel, WIDTH, group * out], zero where a pixel has no tap."""
        out, channels, kernel, _ = weight_OIKK.shape
        w_KKIO = weight_OIKK.permute(2, 3, 1, 0)
        span = (group - 1) * stride + kernel
        wide = weight_OIKK.new_zeros(kernel, width_of(span, channels), group, out)
        for one in range(group):
            taps = slice(one * stride * channels, (one * stride + kernel) * channels)
            wide[:, taps, one] = w_KKIO.reshape(kernel, kernel * channels, out)
        return cls(wide, channels, out, kernel, group)


def width_of(span: int, channels: int) -> int:
    """Inputs under `span` pixels, up to a power of two that a matrix product takes."""
    return max(16, 1 << (span * channels - 1).bit_length())


def convolve(
    x_BCHW: Tensor,
    weights: Filter,
    *,
    stride: int = 1,
    bias_O: Tensor | None = None,
    other_BCHW: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """relu?(conv(x) + bias + other), with padding kernel // 2, summed in float32 and rounded once.

    Args:
        x_BCHW: channels_last maps, bfloat16 (or float16), whose height and width are multiples of the stride.
        weights: of a filter; the width of the result is a multiple of its group.
        stride: 1 or 2.
        bias_O: float32.
        other_BCHW: channels_last, of the result's shape and type.
        relu: whether the result passes a ReLU.

    Raises:
        ValueError: the maps' size is no multiple of the stride, or the result's width none of the group.
    """
    batch, channels, height, width = x_BCHW.shape
    if height % stride or width % stride or (width // stride) % weights.group:
        raise ValueError(f"maps of {height} x {width} do not divide by {stride} and groups of {weights.group}")
    shape = (batch, weights.out, height // stride, width // stride)
    y_BCHW = torch.empty(shape, dtype=x_BCHW.dtype, device=x_BCHW.device, memory_format=torch.channels_last)
    options: dict[str, Any] = FORWARD.get((channels, weights.out, weights.group), DEFAULT)
    groups = batch * shape[2] * shape[3] // weights.group
    launch = _launcher(kernels.forward, (triton.cdiv(groups, options["BLOCK"]),), x_BCHW.device)
    launch(
        x_BCHW,
        weights.weights,
        x_BCHW if bias_O is None else bias_O,
        x_BCHW if other_BCHW is None else other_BCHW,
        y_BCHW,
        groups,
        *(weights.strides or (0, 0, 0, 0, 0)),
        H=shape[2],
        W=shape[3],
        CIN=channels,
        COUT=weights.out,
        KERNEL=weights.kernel,
        STRIDE=stride,
        GROUP=weights.group,
        WIDTH=width_of((weights.group - 1) * stride + weights.kernel, channels),
        PACKED=weights.strides is None,
        BIAS=bias_O is not None,
        OTHER=other_BCHW is not None,
        RELU=relu,
        **options,
    )
    return y_BCHW


def weight_gradient(x_BCHW: Tensor, dy_BCHW: Tensor, kernel: int) -> Tensor:
    """The gradient, float32 [channels out, channels in, kernel, kernel], of a convolution with stride 1.

    Args:
        x_BCHW, dy_BCHW: channels_last maps of one size and type: the input and the result's gradient.
        kernel: 1 or 3; the padding is kernel // 2.
    """
    batch, channels, height, width = x_BCHW.shape
    out, pixels = dy_BCHW.shape[1], batch * height * width
    options: dict[str, Any] = GRADIENT
    blocks = triton.cdiv(pixels, options["BLOCK"])
    each = triton.cdiv(blocks, PROGRAMS)
    programs = triton.cdiv(blocks, each)
    parts = torch.empty((programs, out, kernel, kernel, channels), dtype=torch.float32, device=x_BCHW.device)
    launch = _launcher(kernels.weight_gradient, (programs, kernel), x_BCHW.device)
    shape = {"H": height, "W": width, "CIN": channels, "COUT": out, "KERNEL": kernel}
    launch(x_BCHW, dy_BCHW, parts, pixels, WIDTH=width_of(kernel, channels), BLOCKS=each, **shape, **options)
    return parts.sum(0).permute(0, 3, 1, 2)


def _launcher(kernel: Any, programs: tuple[int, ...], device: torch.device) -> Callable[..., None]:
    """The kernel, to be called for that many programs; Triton itself launches on whatever device is current."""

    def launch(*arguments: Any, **options: Any) -> None:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            kernel[programs](*arguments, **options)

    return launch
