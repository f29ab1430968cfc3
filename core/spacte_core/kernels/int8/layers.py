"""Layers on 8-bit codes: value = scale (code - zero) - lift, with constants that are fixed when a network is loaded.

All sums are exact integers and the scales are constants, so that a row's result depends on that row alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from spacte_core.kernels.graph.fusing import FusedConv

from .rounding import Rounded

MOST = 255  # the greatest code


@dataclass(frozen=True)
class Codes:
    """How uint8 codes stand for values: value = scale (code - zero) - lift, lift per channel or 0."""

    scale: float
    zero: int = 0
    lift_C: Tensor | None = None


def codes_for(low: float, high: float) -> Codes:
    """Codes that cover low..high and have an exact zero, which padding needs."""
    low, high = min(low, 0.0), max(high, 0.0, low + 1e-6)  # also where all values are zero
    scale = round_up((high - low) / MOST)
    return Codes(scale, round(-low / scale))


def round_up(scale: float) -> float:
    """The scale rounded up to 8 significant bits: its last digits may differ between machines."""
    mantissa, exponent = math.frexp(scale)
    return math.ldexp(math.ceil(mantissa * 256) / 256, exponent)


@cache
def onednn_saturates() -> bool:
    """Whether oneDNN's sums of codes are cut off here: x86 without VNNI and AMX adds two products in 16 bits."""
    codes = torch.full((1, 16, 4, 4), MOST, dtype=torch.uint8)
    weights = torch.full((16, 16, 1, 1), 127, dtype=torch.int8)
    ones, zeros = torch.ones(16), torch.zeros(16, dtype=torch.int32)
    geometry = ([1, 1], [0, 0], [1, 1], 1)
    packed = torch.ops.onednn.qconv_prepack(weights, ones, 1.0, 0, *geometry, list(codes.shape))
    after = (None, *geometry, 1.0, 0, torch.float32, "none", [], "")
    sums = torch.ops.onednn.qconv2d_pointwise(codes, 1.0, 0, packed, ones, zeros, *after)
    return bool((sums != MOST * 127 * 16).any())


class Int8Conv(nn.Module):
    """One fused step on codes, by oneDNN, or where that saturates by a float32 convolution of the codes.

    The latter's sums are exact up to 2^24, and beyond that they are rounded as float32's are.

    Args:
        step: what to compute.
        shape_BCHW: shape of its input.
        source: codes of its input.
        other: codes of the residual, if there is one; its result then has the residual's type.
        result: codes of its result; None for float32.
        rounded: its weights.
    """

    def __init__(
        self,
        step: FusedConv,
        shape_BCHW: Sequence[int],
        source: Codes,
        other: Codes | None,
        result: Codes | None,
        rounded: Rounded,
    ) -> None:
        super().__init__()
        conv = step.conv
        self.stride, self.dilation = list(conv.stride), list(conv.dilation)
        self.padding, self.groups = [int(p) for p in conv.padding], conv.groups
        channels, height, width = shape_BCHW[1:]
        self.source_shape = (channels, height, width)
        self.codes, scale_O = rounded
        self.shape_BCHW, self.by_floats = list(shape_BCHW), False
        self.weight = torch.empty(0)  # until it is packed
        self.scale_O, self.zero_O = scale_O, torch.zeros(len(scale_O), dtype=torch.int32)
        self.bias = torch.zeros_like(scale_O) if conv.bias is None else conv.bias.float().clone()
        if other is not None and other.lift_C is not None:
            self.bias -= other.lift_C
        if result is not None and result.lift_C is not None:
            self.bias += result.lift_C
        self.source, self.other, self.result = source, other, result
        self.unary = "relu" if step.relu else "none"
        self.in_place = step.in_place

    def pack(self) -> None:
        """Put the weights into their library's order; a step that goes into a chain of ours needs none."""
        self.by_floats = onednn_saturates()
        if self.by_floats:
            self.weight = self.codes.float().contiguous(memory_format=torch.channels_last)
            return
        geometry = (self.stride, self.padding, self.dilation, self.groups, self.shape_BCHW)
        self.weight = torch.ops.onednn.qconv_prepack(
            self.codes, self.scale_O, self.source.scale, self.source.zero, *geometry
        )

    def forward(self, x_BCHW: Tensor, other_BCHW: Tensor | None = None) -> Tensor:
        """relu?(conv(x) + other?) as codes or float32, once the weights are packed."""
        if self.by_floats:
            return self._from_floats(x_BCHW, other_BCHW)
        result, source = self.result or Codes(1.0), self.source
        dtype = torch.float32 if self.result is None else torch.uint8
        inputs = (x_BCHW, source.scale, source.zero, self.weight, self.scale_O, self.zero_O)
        geometry = (self.bias, self.stride, self.padding, self.dilation, self.groups, result.scale, result.zero, dtype)
        if other_BCHW is None:
            return torch.ops.onednn.qconv2d_pointwise(*inputs, *geometry, self.unary, [], "")
        total = other_BCHW if self.in_place else other_BCHW.clone()
        other = self.other or Codes(1.0)
        after = (other.scale, other.zero, "sum", 1.0, self.unary, [], "")
        return torch.ops.onednn.qconv2d_pointwise.binary(*inputs, total, *geometry, *after)

    def _from_floats(self, x_BCHW: Tensor, other_BCHW: Tensor | None) -> Tensor:
        """The same from sums of products of codes in float32."""
        result = self.result or Codes(1.0)
        codes_BCHW = x_BCHW.to(torch.float32)
        if self.source.zero:
            codes_BCHW.sub_(self.source.zero)
        y = functional.conv2d(codes_BCHW, self.weight, None, self.stride, self.padding, self.dilation, self.groups)
        scale_O11, bias_O11 = self.scale_O * (self.source.scale / result.scale), self.bias / result.scale
        y = torch.addcmul(bias_O11[:, None, None], y, scale_O11[:, None, None])
        if other_BCHW is not None:
            other = self.other or Codes(1.0)
            y.add_(other_BCHW, alpha=other.scale / result.scale)
            if other.zero:
                y.sub_(other.zero * other.scale / result.scale)
        if self.unary == "relu":
            y.relu_()
        if self.result is None:
            return y
        return y.add_(result.zero + 0.5).clamp_(0, MOST + 0.5).to(torch.uint8)  # rounded half up


def pack(graph_module: nn.Module) -> None:
    """Pack the weights of all steps that are left to oneDNN."""
    for step in graph_module.modules():
        if isinstance(step, Int8Conv):
            step.pack()


class Encode(nn.Module):
    """float32 values to codes, rounding half up."""

    def __init__(self, codes: Codes) -> None:
        super().__init__()
        self.codes = codes

    def forward(self, x: Tensor) -> Tensor:
        """uint8 of the same shape."""
        return (x * (1 / self.codes.scale)).add_(self.codes.zero + 0.5).clamp_(0, MOST).to(torch.uint8)


class Decode(nn.Module):
    """Codes to float32 values, or to values but for the scale where `scaled` is false."""

    def __init__(self, codes: Codes, *, scaled: bool = True) -> None:
        super().__init__()
        self.codes, self.scaled = codes, scaled

    def forward(self, x: Tensor) -> Tensor:
        """float32 of the same shape."""
        y = x.to(torch.float32)
        if self.codes.zero:
            y.sub_(self.codes.zero)
        if self.scaled:
            y.mul_(self.codes.scale)
        return y if self.codes.lift_C is None else y.sub_(self.codes.lift_C[:, None, None])


class Scale(nn.Module):
    """The scale that `Decode` left out, once an average has made the tensor small."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """The values."""
        return x * self.scale


class MeanOfCodes(Scale):
    """The mean over height and width; the codes have no zero and no lift."""

    def forward(self, x: Tensor) -> Tensor:
        """Values, float32 [B, C] of x_BCHW."""
        return x.to(torch.float32).mean((2, 3)).mul_(self.scale)


class MaxPoolOfCodes(nn.Module):
    """The greatest codes of each window; PyTorch's own uint8 pooling refuses maps of more than 255 pixels.

    Args:
        pool: what to compute.
        source: codes of its input, and of its result.
        source_shape: channels, height and width of its input.
    """

    def __init__(self, pool: nn.MaxPool2d, source: Codes, source_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.pool, self.source, self.source_shape = pool, source, source_shape

    def forward(self, x: Tensor) -> Tensor:
        """uint8 codes."""
        return self.pool(x.to(torch.float32)).to(torch.uint8)
