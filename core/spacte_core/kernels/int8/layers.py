"""Static int8 for CPUs: convolutions on 8-bit codes with scales fixed at load, per output channel for
weights.

A value is held as uint8 codes where a convolution made it and a convolution reads it: value = scale (code -
zero). ReLU outputs have zero = 0. A residual that is added without a ReLU before it (a downsampling
shortcut) is signed; it is made non-negative by raising its bias, channel by channel, and the convolution
that it is added to takes the same amount off its own. Everything else (averages, linear layers) is float32.

All sums are exact integers and the scales are constants, so a row's result depends on that row alone.
Whether the votes are good enough is not decided here: the engine compares them with float32's.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, fx, nn

from spacte_core.kernels.graph.folding import finished, layer, own_name
from spacte_core.kernels.graph.fusing import FusedConv, is_global_average

from .ranges import Range
from .rounding import Rounded

_CODES = 255


@dataclass(frozen=True)
class Codes:
    """How uint8 codes stand for values: value = scale * (code - zero) - lift, lift per channel or 0."""

    scale: float
    zero: int = 0
    lift_C: Tensor | None = None


class Int8Conv(nn.Module):
    """One fused step on codes.

    Args:
        step: what to compute.
        shape_BCHW: shape of its input.
        source: codes of its input.
        other: codes of the residual, if there is one; its result then has the residual's type.
        made: codes of its result; None for float32.
        rounded: its weights.
    """

    def __init__(
        self,
        step: FusedConv,
        shape_BCHW: torch.Size,
        source: Codes,
        other: Codes | None,
        made: Codes | None,
        rounded: Rounded,
    ) -> None:
        super().__init__()
        conv = step.conv
        self.stride, self.dilation = list(conv.stride), list(conv.dilation)
        self.padding, self.groups = [int(p) for p in conv.padding], conv.groups
        channels, height, width = shape_BCHW[1:]
        self.source_shape = (channels, height, width)
        self.codes, scale_O = rounded
        self.weight = torch.ops.onednn.qconv_prepack(
            self.codes, scale_O, source.scale, source.zero, self.stride, self.padding, self.dilation, self.groups,
            list(shape_BCHW),
        )  # fmt: skip
        self.scale_O, self.zero_O = scale_O, torch.zeros(len(scale_O), dtype=torch.int32)
        bias = torch.zeros(len(scale_O)) if conv.bias is None else conv.bias.float().clone()
        if other is not None and other.lift_C is not None:
            bias -= other.lift_C
        if made is not None and made.lift_C is not None:
            bias += made.lift_C
        self.bias = bias
        self.source, self.other, self.made = source, other, made
        self.unary = "relu" if step.relu else "none"
        self.in_place = step.in_place

    def forward(self, x_BCHW: Tensor, other_BCHW: Tensor | None = None) -> Tensor:
        """relu?(conv(x) + other?) as codes or float32."""
        made, source = self.made, self.source
        dtype = torch.float32 if made is None else torch.uint8
        scale, zero = (1.0, 0) if made is None else (made.scale, made.zero)
        inputs = (x_BCHW, source.scale, source.zero, self.weight, self.scale_O, self.zero_O)
        geometry = (self.bias, self.stride, self.padding, self.dilation, self.groups, scale, zero, dtype)
        if other_BCHW is None:
            return torch.ops.onednn.qconv2d_pointwise(*inputs, *geometry, self.unary, [], "")
        total = other_BCHW if self.in_place else other_BCHW.clone()
        other_scale, other_zero = (1.0, 0) if self.other is None else (self.other.scale, self.other.zero)
        after = (other_scale, other_zero, "sum", 1.0, self.unary, [], "")
        return torch.ops.onednn.qconv2d_pointwise.binary(*inputs, total, *geometry, *after)


class Encode(nn.Module):
    """float32 values to codes, rounding half up."""

    def __init__(self, codes: Codes) -> None:
        super().__init__()
        self.codes = codes

    def forward(self, x: Tensor) -> Tensor:
        """uint8 of the same shape."""
        return (x * (1 / self.codes.scale)).add_(self.codes.zero + 0.5).clamp_(0, _CODES).to(torch.uint8)


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


class AverageCodes(nn.Module):
    """The average over height and width; the codes have no zero and no lift."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Values, float32 [B, C]."""
        return x_BCHW.to(torch.float32).mean((2, 3)).mul_(self.scale)


class PoolCodes(nn.Module):
    """The greatest codes of each window; PyTorch's own uint8 pooling refuses maps of more than 255 places."""

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """uint8 codes."""
        return self.pool(x.to(torch.float32)).to(torch.uint8)


class Quantiser:
    """Rewrites one fused graph so that its convolutions run on codes.

    Args:
        graph_module: a fused graph.
        seen: what the codes of its nodes have to span.
        given: codes of its input, or None where it gets float32.
        batch: rows of each later call.
        rounded: the weights of its convolutions.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        seen: dict[fx.Node, Range],
        given: Codes | None,
        batch: int,
        rounded: dict[str, Rounded],
    ) -> None:
        self.root = fx.GraphModule(graph_module, graph_module.graph)  # gets layers that the given one should not
        self.batch = batch
        self.seen = seen
        self.given = given
        self.rounded = rounded
        self.graph = fx.Graph()
        self.new: dict[fx.Node, fx.Node] = {}
        self.codes: dict[fx.Node, Codes | None] = {}  # of the old nodes
        self.as_float: dict[fx.Node, fx.Node] = {}
        self.as_codes: dict[fx.Node, tuple[fx.Node, Codes]] = {}

    def run(self) -> tuple[fx.GraphModule, Codes | None]:
        """The new graph, and the codes of its result (None where it is float32, or several tensors)."""
        result: Codes | None = None
        for node in self.root.graph.nodes:
            step = layer(self.root, node)
            if isinstance(step, FusedConv):
                self._convolution(node, step)
            elif node.op == "output" and isinstance(node.args[0], fx.Node) and self.codes[node.args[0]]:
                result = self.codes[node.args[0]]
                self.graph.output(self.new[node.args[0]])
            elif isinstance(step, nn.MaxPool2d) and self.codes[node.args[0]]:
                self.new[node] = self._call(str(node.target), PoolCodes(step), self.new[node.args[0]])
                self.codes[node] = self.codes[node.args[0]]
            elif self._is_average(node) and self.codes[node.args[0]]:
                self._average(node)
            else:
                self.new[node] = self.graph.node_copy(node, self._float)
                self.codes[node] = self.given if node.op == "placeholder" else None
        return finished(fx.GraphModule(self.root, self.graph)), result

    def _convolution(self, node: fx.Node, step: FusedConv) -> None:
        source_node = cast(fx.Node, node.args[0])
        source, source_codes = self._coded(source_node)
        args, other_codes = [source], None
        made = self._codes_of_result(node, step)
        if len(node.args) == 2:
            other = cast(fx.Node, node.args[1])
            other_codes = self.codes[other]
            # The residual is summed in place: codes onto codes, or float32 onto float32.
            if other_codes is None or made is None:
                made, other_codes = None, None
                args.append(self._float(other))
            else:
                args.append(self.new[other])
        shape = torch.Size([self.batch, *self.seen[source_node].shape[1:]])
        kernel = Int8Conv(step, shape, source_codes, other_codes, made, self.rounded[str(node.target)])
        self.new[node] = self._call(str(node.target) + "_int8", kernel, *args)
        self.codes[node] = made

    def _codes_of_result(self, node: fx.Node, step: FusedConv) -> Codes | None:
        """Codes for a ReLU's output and for a residual that one other convolution takes in; else None."""
        seen = self.seen[node]
        if step.relu:
            return Codes(steady(max(seen.high, 1e-6) / _CODES))
        users = list(node.users)
        if len(users) != 1 or not isinstance(layer(self.root, users[0]), FusedConv) or seen.low_C is None:
            return None
        if len(users[0].args) != 2 or users[0].args[0] is node:
            return None
        lift_C = torch.tensor([steady(-low) if low < 0 else 0.0 for low in seen.low_C.tolist()])
        return Codes(steady(max(seen.high + lift_C.max().item(), 1e-6) / _CODES), 0, lift_C)

    def _is_average(self, node: fx.Node) -> bool:
        step = layer(self.root, node)
        mean = node.op == "call_method" and node.target == "mean"
        return mean or isinstance(step, nn.AdaptiveAvgPool2d | nn.AvgPool2d)

    def _average(self, node: fx.Node) -> None:
        """An average of codes: the scale is applied to its small result."""
        source = cast(fx.Node, node.args[0])
        codes = cast(Codes, self.codes[source])
        lifted = codes.lift_C is not None
        if is_global_average(node) and not lifted and not codes.zero:
            self.new[node] = self._call(f"average_{node.name}", AverageCodes(codes.scale), self.new[source])
            self.codes[node] = None
            return
        values = self._call(f"decode_{source.name}", Decode(codes, scaled=lifted), self.new[source])
        average = self.graph.node_copy(node, lambda n: values if n is source else self._float(n))
        scale = Scale(1.0 if lifted else codes.scale)
        self.new[node] = self._call(f"scale_{source.name}", scale, average)
        self.codes[node] = None

    def _float(self, node: fx.Node) -> fx.Node:
        codes = self.codes[node]
        if codes is None:
            return self.new[node]
        if node not in self.as_float:
            self.as_float[node] = self._call(f"decode_{node.name}", Decode(codes), self.new[node])
        return self.as_float[node]

    def _coded(self, node: fx.Node) -> tuple[fx.Node, Codes]:
        codes = self.codes[node]
        if codes is not None and codes.lift_C is None:
            return self.new[node], codes
        if node not in self.as_codes:
            fresh = span_codes(self.seen[node].low, self.seen[node].high)
            self.as_codes[node] = (self._call(f"encode_{node.name}", Encode(fresh), self._float(node)), fresh)
        return self.as_codes[node]

    def _call(self, name: str, module: nn.Module, *args: fx.Node) -> fx.Node:
        name = own_name(self.root, name)
        self.root.add_submodule(name, module)
        return self.graph.call_module(name, args)


def span_codes(low: float, high: float) -> Codes:
    """Codes that span low..high and have an exact zero, which padding needs."""
    low, high = min(low, 0.0), max(high, 0.0, low + 1e-6)
    scale = steady((high - low) / _CODES)
    return Codes(scale, round(-low / scale))


def steady(scale: float) -> float:
    """The scale rounded up to 8 significant bits: last digits may differ between machines."""
    mantissa, exponent = math.frexp(scale)
    return math.ldexp(math.ceil(mantissa * 256) / 256, exponent)
