"""convolution (+ residual) (+ ReLU) as one step of the graph, for backends that compute it in one kernel."""

import operator
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from .folding import add_layer, is_add, is_relu, layer_of, recompile


class FusedConv(nn.Module):
    """relu?(conv(x) + other?), the step that a backend replaces by its kernel.

    Attributes:
        conv: the convolution, batch normalisation folded in.
        relu: whether the result passes a ReLU.
        in_place: whether the result may be written over `other`, which nothing else reads later.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.relu = False
        self.in_place = False

    def forward(self, x_BCHW: Tensor, other_BCHW: Tensor | None = None) -> Tensor:
        """The plain meaning of the step, in the arithmetic of its inputs."""
        y = self.conv(x_BCHW)
        if other_BCHW is not None:
            y = y + other_BCHW
        return y.relu_() if self.relu else y


def fuse(graph_module: fx.GraphModule, some_rows: Tensor | None = None) -> fx.GraphModule:
    """Join each convolution and a sum and ReLU that follow it in a `FusedConv`; changes its argument.

    Kernels add maps of one shape and do not check it. For inputs like `some_rows`, two at least, a sum that repeats one
    of its sides to fit the other stays as it is; without them no sum may do so.
    """
    _wrap_convolutions(graph_module)
    _include_sums(graph_module, None if some_rows is None else shapes(graph_module, some_rows))
    _include_relus(graph_module)
    _mark_in_place(graph_module)
    return recompile(graph_module)


def fused_convs(graph_module: fx.GraphModule) -> list[tuple[fx.Node, FusedConv]]:
    """The fused steps in the order in which they run."""
    steps = ((node, layer_of(graph_module, node)) for node in graph_module.graph.nodes)
    return [(node, step) for node, step in steps if isinstance(step, FusedConv)]


def is_global_average(node: fx.Node) -> bool:
    """Whether the node is the mean over height and width, [B, C] of [B, C, H, W]."""
    if (node.op, node.target) not in (("call_method", "mean"), ("call_function", torch.mean)):
        return False
    dims = [*node.args[1:], *node.kwargs.values()]
    plain = len(dims) == 1 and set(node.kwargs) <= {"dim"} and isinstance(dims[0], tuple | list)
    return plain and sorted(cast(Sequence[int], dims[0])) in ([2, 3], [-2, -1])


def is_last_linear(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node is a linear layer after which no other layer comes: its result are logits."""

    def no_layer_follows(node: fx.Node) -> bool:
        functions = ("output", "call_function", "call_method")
        return all(user.op in functions and no_layer_follows(user) for user in node.users)

    return isinstance(layer_of(graph_module, node), nn.Linear) and no_layer_follows(node)


def shapes(graph_module: fx.GraphModule, x: Tensor) -> dict[fx.Node, torch.Size]:
    """The shape of each node's tensor for an input like `x`."""
    looking = _Looking(graph_module)
    looking.run(x)
    return looking.seen


class _Looking(fx.Interpreter):
    """Runs a graph and keeps its shapes; PyTorch's own pass imports symbolic ones, half a second of a load."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.seen: dict[fx.Node, torch.Size] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.seen[n] = result.shape
        return result


def _wrap_convolutions(graph_module: fx.GraphModule) -> None:
    for node in list(graph_module.graph.nodes):
        conv = layer_of(graph_module, node)
        if isinstance(conv, nn.Conv2d) and conv.padding_mode == "zeros" and isinstance(conv.padding, tuple):
            # A layer called twice becomes two steps, each with flags of its own.
            node.target = add_layer(graph_module, str(node.target), FusedConv(conv))


def _include_sums(graph_module: fx.GraphModule, seen: dict[fx.Node, torch.Size] | None) -> None:
    for node in list(graph_module.graph.nodes):
        if not is_add(node):
            continue
        terms = cast(tuple[fx.Node, fx.Node], node.args)
        if seen is not None and len({seen.get(value) for value in (node, *terms)}) > 1:
            continue
        candidates = [
            (term, step)
            for term in terms
            if isinstance(step := layer_of(graph_module, term), FusedConv)
            and len(term.args) == 1
            and len(term.users) == 1
        ]
        if terms[0] is terms[1] or not candidates:
            continue
        term, _ = max(candidates, key=lambda pair: pair[1].conv.weight.numel())
        other = terms[term is terms[0]]
        with graph_module.graph.inserting_before(node):  # here both terms' inputs exist
            fused = graph_module.graph.call_module(str(term.target), (term.args[0], other))
        if seen is not None:
            seen[fused] = seen[node]
        node.replace_all_uses_with(fused)
        graph_module.graph.erase_node(node)
        graph_module.graph.erase_node(term)


def _include_relus(graph_module: fx.GraphModule) -> None:
    for node in list(graph_module.graph.nodes):
        if not is_relu(graph_module, node):
            continue
        source = node.args[0]
        step = layer_of(graph_module, source)
        if isinstance(step, FusedConv) and len(source.users) == 1:
            step.relu = True
            node.replace_all_uses_with(source)
            graph_module.graph.erase_node(node)


def _mark_in_place(graph_module: fx.GraphModule) -> None:
    order = {node: i for i, node in enumerate(graph_module.graph.nodes)}
    for node, step in fused_convs(graph_module):
        if len(node.args) == 2:
            other = cast(fx.Node, node.args[1])
            fresh = isinstance(layer_of(graph_module, other), FusedConv)  # and no view of an input
            earlier = [user for user in other.users if user is not node]
            read_last = all(order[user] < order[node] and _has_a_place(graph_module, user) for user in earlier)
            step.in_place = fresh and read_last and node.args[0] is not other


def _has_a_place(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node's result is known to share no memory with what it reads, as views and identities do."""
    if node.op == "call_function":
        return node.target in (operator.add, torch.add, torch.relu)
    return isinstance(layer_of(graph_module, node), (FusedConv, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d))
