"""3 x 3 convolutions of a float32 network in a quarter of the multiplications, on CPUs with AVX-512.

Winograd's F(4 x 4, 3 x 3) with the points 0, +-5/8, +-3/2 and infinity (Lavin and Gray 2016 use +-1 and +-2). Its
rounding errors have 2.5 times the standard deviation of a direct convolution's in float32, 5e-7 of the values' own.

Layers that follow one another are one step of the graph, a chain: it takes a few images through all of them, whose
maps then stay in the cache.
"""

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, fx, nn

from spacte_trainer.native.library import compiled

from .folding import finished, layer, own_name
from .fusing import FusedConv, shapes

POINTS = (0.0, 0.625, -0.625, 1.5, -1.5)
"""Where the polynomials behind the transforms are evaluated, besides infinity; the kernel knows the same."""

_SOURCE = Path(__file__).with_name("winograd_kernel.cpp")
_TILE, _LANES, _CHANNELS = 4, 16, (16, 32, 64)
_GROUP_VALUES = 3 << 15
"""Values that the maps of one layer should have in a group of images: three such maps fit the second-level cache."""


class _Layer(ctypes.Structure):
    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("channels_in", "channels", "height", "width", "relu")),
        *((name, ctypes.c_int64) for name in ("source", "other", "target")),
    )


class _Map(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("values", ctypes.c_int64))


@dataclass(frozen=True)
class Link:
    """One layer of a chain.

    Attributes:
        step: what it computes.
        source, other: numbers of the values that it takes: first the chain's inputs, then each layer's result.
        size: height and width of its maps.
    """

    step: FusedConv
    source: int
    other: int | None
    size: tuple[int, int]


class WinogradChain(nn.Module):
    """Layers one after the other, the last one's result is the chain's; its inputs are left as they are.

    Args:
        links: the layers in their order; every result but the last is used in the chain alone.
        inputs: how many values the chain is given.
        library: the compiled kernel.
    """

    def __init__(self, links: Sequence[Link], inputs: int, library: ctypes.CDLL) -> None:
        super().__init__()
        library.spacte_winograd_scratch.restype = ctypes.c_int64
        library.spacte_winograd.restype = None
        self.library = library
        convs = [link.step.conv for link in links]
        self.weights = [transformed(conv.weight) for conv in convs]
        none = (torch.zeros(conv.out_channels) for conv in convs)
        self.biases = [next(none) if conv.bias is None else conv.bias.float() for conv in convs]
        self.shape = (convs[-1].out_channels, *links[-1].size)
        self.largest = max(
            conv.in_channels * math.prod(link.size) for conv, link in zip(convs, links, strict=True)
        )
        place, self.own = _places(links, inputs)
        self.layers = (_Layer * len(links))()
        for i, link in enumerate(links):
            self.layers[i] = _Layer(
                self.weights[i].data_ptr(),
                self.biases[i].data_ptr(),
                convs[i].in_channels,
                convs[i].out_channels,
                *link.size,
                link.step.relu,
                place[link.source],
                -1 if link.other is None else place[link.other],
                place[inputs + i],
            )

    def forward(self, *inputs_BCHW: Tensor) -> Tensor:
        """The last layer's result."""
        given = [x.contiguous(memory_format=torch.channels_last) for x in inputs_BCHW]
        batch, threads = len(given[0]), torch.get_num_threads()
        made = torch.empty((batch, *self.shape), memory_format=torch.channels_last)
        outside = [_Map(x.data_ptr(), x[0].numel()) for x in (*given, made)]
        maps = (_Map * (len(outside) + len(self.own)))(*outside, *(_Map(None, size) for size in self.own))
        group = max(1, min(_GROUP_VALUES // self.largest, -(-batch // threads)))
        chain = (self.layers, ctypes.c_int64(len(self.layers)), maps, ctypes.c_int64(len(maps)))
        each = self.library.spacte_winograd_scratch(*chain, ctypes.c_int64(group))
        scratch = torch.empty(threads * each)
        self.library.spacte_winograd(
            *chain,
            *(ctypes.c_int64(number) for number in (batch, group, threads)),
            ctypes.c_void_p(scratch.data_ptr()),
        )
        return made


def winograd_library() -> ctypes.CDLL | None:
    """The compiled kernel; None on a machine without AVX-512 or without a compiler."""
    return compiled(_SOURCE, "-march=native", "-fopenmp", "-ffp-contract=off")


def to_winograd(graph_module: fx.GraphModule, some_rows: Tensor) -> bool:
    """Replace the fused steps that the kernel computes by chains; changes its argument.

    Args:
        graph_module: a fused graph in float32.
        some_rows: a few rows of input, to see the shapes on the way.

    Returns:
        Whether there were any.
    """
    library = winograd_library()
    seen = shapes(graph_module, some_rows)
    runs = _chains(graph_module, seen) if library is not None else []
    for run in runs:
        _replace(graph_module, run, seen, cast(ctypes.CDLL, library))
    finished(graph_module)
    return bool(runs)


def transformed(weight_OIHW: Tensor) -> Tensor:
    """G g G^T, computed in float64: float32 [36, I, O]."""
    rows = [[x**power / math.prod(x - y for y in POINTS if y != x) for power in range(3)] for x in POINTS]
    G = torch.tensor([*rows, [0.0, 0.0, 1.0]], dtype=torch.float64)
    made_OI66 = G @ weight_OIHW.double() @ G.T
    return made_OI66.permute(2, 3, 1, 0).flatten(0, 1).float().contiguous()


def fits(step: nn.Module | None, shape_BCHW: torch.Size) -> bool:
    """Whether the kernel computes this step for inputs of this shape."""
    if not isinstance(step, FusedConv) or step.conv.weight.dtype != torch.float32:
        return False
    conv = step.conv
    geometry = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups)
    channels = conv.in_channels % _LANES == 0 and conv.out_channels in _CHANNELS
    return (
        geometry == ((3, 3), (1, 1), (1, 1), (1, 1), 1)
        and channels
        and all(side % _TILE == 0 for side in shape_BCHW[2:])
    )


def _chains(graph_module: fx.GraphModule, seen: dict[fx.Node, torch.Size]) -> list[list[fx.Node]]:
    """Runs of steps that the kernel computes, of which only the last one's result is used elsewhere."""
    runs: list[list[fx.Node]] = [[]]
    for node in graph_module.graph.nodes:
        source = node.args[0] if node.args else None
        if isinstance(source, fx.Node) and fits(layer(graph_module, node), seen.get(source, torch.Size())):
            runs[-1].append(node)
        elif runs[-1]:
            runs.append([])
    chains: list[list[fx.Node]] = []
    for run in runs:
        while run:
            length = next(n for n in range(len(run), 0, -1) if _closed(run[:n]))
            chains.append(run[:length])
            run = run[length:]
    return chains


def _closed(run: list[fx.Node]) -> bool:
    return all(user in run for node in run[:-1] for user in node.users)


def _replace(
    graph_module: fx.GraphModule, run: list[fx.Node], seen: dict[fx.Node, torch.Size], library: ctypes.CDLL
) -> None:
    """Put one chain in the place of a run of steps."""
    arguments = [cast(fx.Node, value) for node in run for value in node.args]
    given = list(dict.fromkeys(value for value in arguments if value not in run))
    number = {node: i for i, node in enumerate([*given, *run])}
    links: list[Link] = []
    for node in run:
        source, *others = (cast(fx.Node, value) for value in node.args)
        step = cast(FusedConv, layer(graph_module, node))
        height, width = seen[source][2:]
        links.append(Link(step, number[source], number[others[0]] if others else None, (height, width)))
    name = own_name(graph_module, f"{run[0].target}_chain")
    graph_module.add_submodule(name, WinogradChain(links, len(given), library))
    with graph_module.graph.inserting_before(run[-1]):
        chain = graph_module.graph.call_module(name, tuple(given))
    seen[chain] = seen[run[-1]]
    run[-1].replace_all_uses_with(chain)
    for node in reversed(run):
        graph_module.graph.erase_node(node)


def _places(links: Sequence[Link], inputs: int) -> tuple[list[int], list[int]]:
    """Where each value lies: inputs and the chain's result outside, the others in as few maps as will do.

    Returns:
        The number of each value's map, and the sizes of the maps inside, which are numbered after the others.
    """
    last_use = {value: i for i, link in enumerate(links) for value in (link.source, link.other)}
    place, sizes, free = list(range(inputs)), list[int](), list[int]()
    for i, link in enumerate(links):
        if i == len(links) - 1:
            place.append(inputs)
            break
        values = link.step.conv.out_channels * math.prod(link.size)
        overwritten = link.other is not None and link.other >= inputs and last_use[link.other] == i
        if link.other is not None and overwritten and link.other != link.source:
            free.append(place[link.other])  # written over as it is read
        fitting = [number for number in free if sizes[number - inputs - 1] == values]
        if fitting:
            place.append(fitting[0])
            free.remove(fitting[0])
        else:
            sizes.append(values)
            place.append(inputs + len(sizes))
        if link.source >= inputs and last_use[link.source] == i:
            free.append(place[link.source])
    return place, sizes
