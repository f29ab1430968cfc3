"""Convolutions of 8-bit codes, bfloat16 and float32 maps, many layers at a time, on the CPU units that are best at it.

oneDNN's kernels take a whole batch through one layer, and every map goes out to memory and back. Here a few images go
through all layers that follow one another, a chain, and their maps stay in the cache; `chain_walk.h` says how.
"""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from spacte_core.kernel_switch import kernels_enabled
from spacte_core.kernels.compiler import call
from spacte_core.kernels.graph.chains import Chain, Operands, assign_buffers, replace_chains
from spacte_core.kernels.graph.folding import layer_of
from spacte_core.kernels.graph.fusing import FusedConv, is_global_average, is_last_linear, shapes
from spacte_core.kernels.int8.layers import Int8Conv, MaxPoolOfCodes, MeanOfCodes

from . import chain_weights, chain_winograd
from .chain_weights import LANES, LINE
from .targets import Target, target_for

Shape = tuple[int, int, int]
"""Channels, height and width."""

_BY_WINOGRAD = 1  # of the kernel for vector units: the shape of Winograd's layers
KINDS = (torch.uint8, torch.bfloat16, torch.float32)
"""Of maps; the kernels know them by their number here."""

_PRODUCTS, _PARTS_EACH = 1 << 16, 128
"""Of `bare_products`. Chosen: some milliseconds of work, in parts small enough for threads that lose their cores."""

_MOST_BYTES = {torch.uint8: 1 << 20, torch.bfloat16: 1 << 20, torch.float32: 1 << 21}
"""Of a map of sixteen images, for matrix units: two or three of them fill a core's second-level cache of 2 MB. In
float32 larger maps, and more filters, are faster layer by layer (`winograd_layers.py`)."""

MOST_FILTERS_IN_FLOAT32, _LEAST_STEPS_IN_FLOAT32 = 64 * 128, 3
"""Channels in times channels out; and steps of a chain: fewer are not worth the order that it wants its maps in."""

_MOST_BYTES_OF_VECTORS = 1 << 24
"""The same for vector units, which products keep busy enough: .92 of the bare products' rate with maps of 5 MB (64
channels at 56 x 56), .95 with 1 MB on an AMD EPYC (benchmarks/results/engine_cpu.md). Chosen: a thread's maps stay
below 100 MB."""


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "scale", "bias")),
        ("other_scale", ctypes.c_double),
        *((name, ctypes.c_int64) for name in ("channels", "height", "width", "kernel", "stride", "padding")),
        *((name, ctypes.c_int64) for name in ("relu", "shape", "source", "other", "target")),
    )


class _Map(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("channels", "height", "width", "border")),
    )


@dataclass(frozen=True)
class Layer:
    """relu?(conv(source) * scale + bias + other * other_scale?), the average over height and width, or max pooling.

    Attributes:
        weight_OIKK: int8 codes or floats; None for the average and for pooling.
        scale_O: what a sum of codes is multiplied by; None in floats.
        bias_O: float32, in units of the result.
        other_scale: of a residual of codes; of the sum over height and width, for an average.
        stride: of the convolution, or of the windows.
        relu: codes have it in any case, they are clamped to 0..255.
        source_shape, shape: of its source and its result; an average has height and width 1.
        border: the code of zero in its source, 0 in floats.
        padding: 0 or 1. Windows with padding take values that are not negative.
        window: the side of max pooling's windows, 0 where it is none.
    """

    weight_OIKK: Tensor | None
    scale_O: Tensor | None
    bias_O: Tensor | None
    other_scale: float
    stride: int
    relu: bool
    source_shape: Shape
    shape: Shape
    border: int = 0
    padding: int = 0
    window: int = 0

    @property
    def is_average(self) -> bool:
        """Whether it is the average, which gives float32 and ends a chain."""
        return self.weight_OIKK is None and not self.window


class ChainKernel(nn.Module):
    """Layers one after the other, the last one's result is the chain's; its inputs are left as they are.

    Args:
        layers: in their order; every result but the last is used in the chain alone. An average comes last.
        operands: the values that each of them reads.
        inputs: shapes of the chain's inputs.
        dtype: uint8 for codes, bfloat16 or float32.
        target: what computes it.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        operands: Sequence[Operands],
        inputs: Sequence[Shape],
        dtype: torch.dtype,
        target: Target,
    ) -> None:
        super().__init__()
        library = target.library(dtype)
        if library is None:
            raise ValueError(f"this machine does not compute {dtype} by {target.name}")
        border = _borders(layers, operands, len(inputs))
        self.library, self.dtype, self.shape = library, dtype, layers[-1].shape
        self.averaged = layers[-1].is_average
        self.kept: list[Tensor] = []  # what the kernel reads in place
        buffer, inner = assign_buffers(operands, [layer.shape for layer in layers], len(inputs))
        self.outer: list[Shape] = [*inputs, self.shape]
        self.inner = [_Map(None, *shape, 0) for shape in inner]
        self.inner += [_Map(None, *shape, border.get(i, 0)) for i, shape in enumerate(inputs)]
        # The kernel reads inputs from copies with a border, which follow the buffers inside.
        copies = [(i, len(self.outer) + len(inner) + i) for i in range(len(inputs))]
        inside = dict(copies)
        if target.unit is not None and not self.averaged:  # inside, the result lies in the order of the vector units
            self.inner.append(_Map(None, *self.shape, 0))
            inside[len(inputs)] = len(self.outer) + len(self.inner) - 1
            copies.append((inside[len(inputs)], len(inputs)))
        self.copies_in, self.copies_out = len(inputs), len(copies) - len(inputs)
        self.copies = (ctypes.c_int64 * (2 * len(copies)))(*(number for pair in copies for number in pair))
        self.layers = (_Layer * len(layers))()
        for i, (layer, (source, other)) in enumerate(zip(layers, operands, strict=True)):
            weight, block, kernel = None, 0, layer.window
            shape = layer.source_shape if layer.is_average else layer.shape
            if layer.weight_OIKK is not None:
                kernel = layer.weight_OIKK.shape[-1]
                weight, block = _ordered(layer, dtype, target)
            pointers = map(self._address, (weight, layer.scale_O, layer.bias_O))
            values = (source, other, len(inputs) + i)
            buffers = [-1 if value is None else inside.get(buffer[value], buffer[value]) for value in values]
            geometry = (*shape, kernel, layer.stride, layer.padding, layer.relu, block)
            self.layers[i] = _Layer(*pointers, layer.other_scale, *geometry, *buffers)

    def forward(self, *inputs_BCHW: Tensor) -> Tensor:
        """The last layer's result: [B, C, H, W] in channels_last order, or float32 averages [B, C]."""
        inputs = [x.contiguous(memory_format=torch.channels_last) for x in inputs_BCHW]
        for x, shape in zip(inputs, self.outer, strict=False):
            if x.dtype != self.dtype or x.shape[1:] != shape:
                raise ValueError(f"{x.dtype} {list(x.shape)} is not the chain's {self.dtype} {list(shape)}")
        batch, threads = len(inputs[0]), torch.get_num_threads()
        if self.averaged:
            result = torch.empty(batch, self.shape[0], dtype=torch.float32)
        else:
            result = torch.empty((batch, *self.shape), dtype=self.dtype, memory_format=torch.channels_last)
        outer = [_Map(x.data_ptr(), *shape, 0) for x, shape in zip((*inputs, result), self.outer, strict=True)]
        maps = (_Map * (len(outer) + len(self.inner)))(*outer, *self.inner)
        kind = KINDS.index(self.dtype)
        each = call(self.library.spacte_chain_scratch, self.layers, len(self.layers), maps, len(maps), kind)
        scratch = torch.empty(threads * each, dtype=torch.uint8)
        chain = (self.layers, len(self.layers), maps, len(maps), self.copies, self.copies_in, self.copies_out)
        call(self.library.spacte_chain, *chain, batch, threads, scratch, kind)
        return result

    def _address(self, part: Tensor | None) -> int | None:
        if part is None:
            return None
        self.kept.append(part.contiguous())
        return self.kept[-1].data_ptr()


def by_winograd(layer: Layer, dtype: torch.dtype, target: Target) -> bool:
    """Whether a layer is computed by Winograd, where that pays and is exact for codes: the bits are the same for them.

    Args:
        layer: what is computed.
        dtype: of its maps.
        target: what computes it.
    """
    if layer.weight_OIKK is None or target.unit is None or not kernels_enabled("winograd"):
        return False
    if (*layer.weight_OIKK.shape[2:], layer.stride, layer.padding) != (3, 3, 1, 1):
        return False
    costs = None if layer.scale_O is None else target.costs_here()
    if not chain_winograd.pays(layer.shape, layer.source_shape[0], target.unit[dtype], costs):
        return False
    return costs is None or chain_winograd.is_exact(layer.weight_OIKK)


def _ordered(layer: Layer, dtype: torch.dtype, target: Target) -> tuple[Tensor, int]:
    """A convolution's weights in the order of the target's kernel, and what that calls the shape of the layer."""
    weight_OIKK = cast(Tensor, layer.weight_OIKK)
    direct = weight_OIKK if layer.scale_O is not None else weight_OIKK.to(dtype)
    if target.unit is None:
        return chain_weights.tiles(direct, layer.stride)
    unit = target.unit[dtype]
    if not by_winograd(layer, dtype, target):
        return chain_weights.cells(direct, unit), 0
    order = chain_winograd.cells if layer.scale_O is None else chain_winograd.cells_of_codes
    return order(weight_OIKK, unit), _BY_WINOGRAD


def bare_products(dtype: torch.dtype) -> Callable[[], int] | None:
    """Products of uint8, bfloat16 or float32 with operands in registers, on all threads; returns their multiply-adds.

    No kernel can be faster. None where there is no target for such maps.
    """
    target, threads = target_for(dtype), torch.get_num_threads()
    library = None if target is None else target.library(dtype)
    if library is None:
        return None
    arguments = (_PRODUCTS, _PARTS_EACH * threads, threads, KINDS.index(dtype))
    return lambda: call(library.spacte_chain_products, *arguments)


def codes_to_chains(graph_module: fx.GraphModule, target: Target) -> bool:
    """Replace the steps of a graph on codes that the target computes by chains; whether there were any."""
    return _replace(graph_module, lambda node: layer_of_codes(graph_module, node, target), torch.uint8, target)


def floats_to_chains(graph_module: fx.GraphModule, some_rows: Tensor, dtype: torch.dtype, target: Target) -> bool:
    """Replace the steps of a fused float32 graph, for inputs like `some_rows`, by chains of `dtype`; as above."""
    seen = shapes(graph_module, some_rows)

    def describe(node: fx.Node) -> Layer | None:
        return layer_of_floats(graph_module, node, seen, dtype, target)

    return _replace(graph_module, describe, dtype, target)


def layer_of_codes(graph_module: fx.GraphModule, node: fx.Node, target: Target) -> Layer | None:
    """What a step on codes is for the kernel; None if the target cannot compute it."""
    step = layer_of(graph_module, node)
    if isinstance(step, MeanOfCodes):
        conv = layer_of(graph_module, node.args[0])
        if not isinstance(conv, Int8Conv) or not node.users:
            return None
        shape = _shape_of_codes(conv, target)
        return None if shape is None else _average(shape, step.scale, torch.uint8, target)
    if isinstance(step, MaxPoolOfCodes):
        return None if step.source.zero else _pooling(step.pool, step.source_shape, torch.uint8, target)
    if not isinstance(step, Int8Conv) or step.result is None or step.result.zero:
        return None
    if (len(node.args) == 2) != (step.other is not None):
        return None
    shape = _shape_of_codes(step, target)
    if shape is None or not _both_small(step.source_shape, shape, torch.uint8, target):
        return None
    unit, scale_O = step.result.scale, step.scale_O * step.source.scale
    bias_O = step.bias - step.source.zero * step.codes.sum((1, 2, 3)) * scale_O
    other_scale = 0.0
    if step.other is not None:
        bias_O = bias_O - step.other.zero * step.other.scale
        other_scale = step.other.scale / unit
    after = (scale_O / unit, bias_O / unit, other_scale)
    of_source = (step.source_shape, shape, step.source.zero)
    return Layer(step.codes, *after, step.stride[0], True, *of_source, _square(step.padding))


def layer_of_floats(
    graph_module: fx.GraphModule, node: fx.Node, seen: dict[fx.Node, torch.Size], dtype: torch.dtype, target: Target
) -> Layer | None:
    """What a step of a fused graph is for the kernel on maps of `dtype`; None if the target cannot compute it."""
    step, source = layer_of(graph_module, node), node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or len(seen.get(source, ())) != 4:
        return None
    source_shape = cast(Shape, tuple(seen[source][1:]))
    if is_global_average(node) and node.users and all(is_last_linear(graph_module, user) for user in node.users):
        return _average(source_shape, 1.0, dtype, target)
    if isinstance(step, nn.MaxPool2d):
        positive = isinstance(before := layer_of(graph_module, source), FusedConv) and before.relu
        return _pooling(step, source_shape, dtype, target) if positive else None
    if not isinstance(step, FusedConv):
        return None
    conv = step.conv
    shape = _result_shape(conv, conv.out_channels, _square(conv.kernel_size), source_shape, target.multiple)
    if shape is None or not _both_small(source_shape, shape, dtype, target):
        return None
    weight = conv.weight.float()
    bias_O = torch.zeros_like(weight[:, 0, 0, 0]) if conv.bias is None else conv.bias.float()
    padding = _square(cast(tuple[int, int], conv.padding))
    return Layer(weight, None, bias_O, 1.0, conv.stride[0], step.relu, source_shape, shape, padding=padding)


def _replace(
    graph_module: fx.GraphModule, describe: Callable[[fx.Node], Layer | None], dtype: torch.dtype, target: Target
) -> bool:
    described = {node: layer for node in graph_module.graph.nodes if (layer := describe(node)) is not None}

    def kernel(chain: Chain) -> nn.Module:
        layers, shape_of = [described[step] for step in chain.steps], dict[int, Shape]()
        for layer, (source, other) in zip(layers, chain.operands, strict=True):
            shape_of[source] = layer.source_shape
            if other is not None:
                shape_of[other] = layer.shape
        inputs = [shape_of[number] for number in range(len(chain.inputs))]
        return ChainKernel(layers, chain.operands, inputs, dtype, target)

    least = _LEAST_STEPS_IN_FLOAT32 if dtype == torch.float32 else 1
    return replace_chains(graph_module, described.__contains__, kernel, least=least)


def _borders(layers: Sequence[Layer], operands: Sequence[Operands], inputs: int) -> dict[int, int]:
    """The code of zero of each value that a convolution reads; ValueError where these are no layers of one chain."""
    if any(layer.is_average for layer in layers[:-1]):
        raise ValueError("an average ends a chain")
    border: dict[int, int] = {}
    for layer, (source, _) in zip(layers, operands, strict=True):
        if layer.padding and border.setdefault(source, layer.border) != layer.border:
            raise ValueError("a value has one code of zero")
    if any(code for source, code in border.items() if source >= inputs):
        raise ValueError("only an input of a chain may have a code of zero other than 0")
    return border


def _shape_of_codes(step: Int8Conv, target: Target) -> Shape | None:
    channels, _, *kernel = step.codes.shape
    return _result_shape(step, channels, _square(kernel), step.source_shape, target.multiple)


def _average(source_shape: Shape, scale: float, dtype: torch.dtype, target: Target) -> Layer | None:
    channels, height, width = source_shape
    if channels % target.multiple or not _both_small(source_shape, source_shape, dtype, target):
        return None
    return Layer(None, None, None, scale / (height * width), 1, False, source_shape, (channels, 1, 1))


def _pooling(pool: nn.MaxPool2d, source_shape: Shape, dtype: torch.dtype, target: Target) -> Layer | None:
    """Max pooling; None if the kernel does not know it. Its source has no negative values."""
    window, stride, padding = _square(pool.kernel_size), _square(pool.stride), _square(pool.padding)
    shape = _result_shape(pool, source_shape[0], window, source_shape, target.multiple)
    if shape is None or pool.ceil_mode or pool.return_indices or not _both_small(source_shape, shape, dtype, target):
        return None
    return Layer(None, None, None, 1.0, stride, False, source_shape, shape, padding=padding, window=window)


def _result_shape(geometry: Any, channels: int, kernel: int, source_shape: Shape, multiple: int) -> Shape | None:
    """The shape of the result of a convolution or a pooling with such geometry; None if the kernel does not know it.

    Args:
        geometry: has a stride, a padding and a dilation; a convolution groups, too.
        channels: of the result; they have to be a multiple of `multiple`.
        kernel: its side, or that of a window; -1 where it is not square.
        source_shape: of its source.
        multiple: of the target.
    """
    stride, padding, dilation = (_square(size) for size in (geometry.stride, geometry.padding, geometry.dilation))
    known = 1 <= kernel <= 3 and stride > 0 and 0 <= padding <= min(1, kernel - 1) and dilation == 1
    if not known or getattr(geometry, "groups", 1) != 1 or channels % multiple:
        return None
    height, width = ((side + 2 * padding - kernel) // stride + 1 for side in source_shape[1:])
    return (channels, height, width) if min(height, width) > 0 else None


def _square(sizes: int | Sequence[int]) -> int:
    """The one number of a size, or -1 where height and width have two."""
    first, second = (sizes, sizes) if isinstance(sizes, int) else (*sizes, *sizes)[:2]
    return first if first == second else -1


def _both_small(source_shape: Shape, shape: Shape, dtype: torch.dtype, target: Target) -> bool:
    if dtype == torch.float32 and source_shape[0] * shape[0] > MOST_FILTERS_IN_FLOAT32:
        return False
    most = _MOST_BYTES[dtype] if target.unit is None or dtype == torch.float32 else _MOST_BYTES_OF_VECTORS
    return all(
        (height + 2) * LANES * ((width + 2) * channels * dtype.itemsize + 2 * LINE) <= most
        for channels, height, width in (source_shape, shape)
    )
