"""3 x 3 convolutions of a float32 network in a quarter of the multiplications, on CPUs with AVX-512 or AVX2.

Winograd's F(4 x 4, 3 x 3) with the points 0, +-5/8, +-3/2 and infinity (Lavin and Gray 2016 use +-1 and +-2). Its
rounding errors have 2.5 times the standard deviation of a direct convolution's in float32, 5e-7 of the values' own
(benchmarks/results/engine_cpu.md). Layers that follow one another are one step of the graph, a chain.
"""

import ctypes
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, fx, nn

from spacte_core.kernels.compiler import call
from spacte_core.kernels.graph.chains import Chain, Operands, assign_buffers, replace_chains
from spacte_core.kernels.graph.folding import layer_of
from spacte_core.kernels.graph.fusing import FusedConv, fused_convs, shapes

from .winograd_layers import WinogradLayer, compile_winograd, takes_layer

POINTS = (0.0, 0.625, -0.625, 1.5, -1.5)
"""Where the polynomials behind the transforms are evaluated, besides infinity; the kernel knows the same."""

_TILE, _LANES, _CHANNELS = 4, 16, (16, 32, 64)
"""Of the kernel: side of a tile of results, values of a register, channels out that it is compiled for."""

_GROUP_VALUES = 3 << 15
"""Values of one layer's maps in a group of images, 384 KB: three such maps fit a second-level cache of 2 MB."""


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "bias")),
        *((name, ctypes.c_int64) for name in ("channels_in", "channels", "height", "width", "relu")),
        *((name, ctypes.c_int64) for name in ("source", "other", "target")),
    )


class _Map(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("values", ctypes.c_int64))


class WinogradChain(nn.Module):
    """Layers one after the other, the last one's result is the chain's; its inputs are left as they are.

    Args:
        steps: the layers in their order; every result but the last is used in the chain alone.
        operands: the values that each of them reads.
        sizes: height and width of each one's maps.
        inputs: how many inputs the chain has.
        library: the compiled kernel.
    """

    def __init__(
        self,
        steps: Sequence[FusedConv],
        operands: Sequence[Operands],
        sizes: Sequence[tuple[int, int]],
        inputs: int,
        library: ctypes.CDLL,
    ) -> None:
        super().__init__()
        library.spacte_winograd_scratch.restype = ctypes.c_int64
        library.spacte_winograd.restype = None
        self.library = library
        convs = [step.conv for step in steps]
        self.weights = [transform(conv.weight) for conv in convs]
        self.biases = [torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.float() for conv in convs]
        shapes = [(conv.out_channels, *size) for conv, size in zip(convs, sizes, strict=True)]
        self.shape = shapes[-1]
        self.largest = max(conv.in_channels * math.prod(size) for conv, size in zip(convs, sizes, strict=True))
        buffer, inner = assign_buffers(operands, shapes, inputs)
        self.inner = [math.prod(shape) for shape in inner]
        self.layers = (_Layer * len(steps))()
        for i, (source, other) in enumerate(operands):
            pointers = (self.weights[i].data_ptr(), self.biases[i].data_ptr())
            buffers = (buffer[source], -1 if other is None else buffer[other], buffer[inputs + i])
            self.layers[i] = _Layer(*pointers, convs[i].in_channels, *shapes[i], steps[i].relu, *buffers)

    def forward(self, *inputs_BCHW: Tensor) -> Tensor:
        """The last layer's result."""
        inputs = [x.contiguous(memory_format=torch.channels_last) for x in inputs_BCHW]
        batch, threads = len(inputs[0]), torch.get_num_threads()
        result = torch.empty((batch, *self.shape), memory_format=torch.channels_last)
        outer = [_Map(x.data_ptr(), x[0].numel()) for x in (*inputs, result)]
        maps = (_Map * (len(outer) + len(self.inner)))(*outer, *(_Map(None, size) for size in self.inner))
        group = max(1, min(_GROUP_VALUES // self.largest, -(-batch // threads)))
        chain = (self.layers, len(self.layers), maps, len(maps))
        scratch = torch.empty(threads * call(self.library.spacte_winograd_scratch, *chain, group))
        call(self.library.spacte_winograd, *chain, batch, group, threads, scratch)
        return result


def winograd_library() -> ctypes.CDLL | None:
    """The compiled kernel, of the same bits with AVX-512 and AVX2; None on a machine with neither, or no compiler."""
    return compile_winograd("winograd_kernel.cpp")


def to_winograd(graph_module: fx.GraphModule, some_rows: Tensor) -> bool:
    """Replace the steps of a fused float32 graph that the kernels compute, for inputs like `some_rows`.

    Narrow layers become chains, and what is left of the others single layers. Returns whether there were any.
    """
    library = winograd_library()
    if library is None:
        return False
    seen = shapes(graph_module, some_rows)

    def kernel(chain: Chain) -> nn.Module:
        steps = [cast(FusedConv, layer_of(graph_module, node)) for node in chain.steps]
        sizes = [(height, width) for _, _, height, width in (seen[node] for node in chain.steps)]
        return WinogradChain(steps, chain.operands, sizes, len(chain.inputs), library)

    def fits_kernel(node: fx.Node) -> bool:
        source = node.args[0] if node.args else None
        return isinstance(source, fx.Node) and fits(layer_of(graph_module, node), seen.get(source, torch.Size()))

    chains = replace_chains(graph_module, fits_kernel, kernel)
    layers = [(node, step) for node, step in fused_convs(graph_module) if takes_layer(step.conv, seen[node])]
    for node, step in layers:
        graph_module.set_submodule(str(node.target), WinogradLayer(step))
    return chains or bool(layers)


def transform(weight_OIHW: Tensor) -> Tensor:
    """G g G^T, computed in float64: float32 [36, I, O]."""
    rows = [[x**power / math.prod(x - y for y in POINTS if y != x) for power in range(3)] for x in POINTS]
    G = torch.tensor([*rows, [0.0, 0.0, 1.0]], dtype=torch.float64)
    transformed_OI66 = G @ weight_OIHW.double() @ G.T
    return transformed_OI66.permute(2, 3, 1, 0).flatten(0, 1).float().contiguous()


def fits(step: nn.Module | None, shape_BCHW: torch.Size) -> bool:
    """Whether the kernel computes this step for inputs of this shape."""
    return isinstance(step, FusedConv) and fits_conv(step.conv, shape_BCHW)


def fits_conv(conv: nn.Conv2d, shape_BCHW: torch.Size) -> bool:
    """Whether the kernel computes this convolution for inputs of this shape."""
    geometry = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups)
    return (
        geometry == ((3, 3), (1, 1), (1, 1), (1, 1), 1)
        and conv.in_channels % _LANES == 0
        and conv.out_channels in _CHANNELS
        and conv.weight.dtype == torch.float32
        and all(side % _TILE == 0 for side in shape_BCHW[2:])
    )
