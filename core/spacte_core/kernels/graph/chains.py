"""Chains: steps of a graph that one kernel applies to a few images at a time, so that their maps stay in the cache."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import fx, nn

from .folding import add_layer, recompile

Shape = TypeVar("Shape", bound=Hashable)

Operands = tuple[int, int | None]
"""What a step reads, its source and its residual, as numbers of values: the chain's inputs come first, then the result
of each step."""


@dataclass(frozen=True)
class Chain:
    """Steps one after the other, of which only the last one's result is used elsewhere.

    Attributes:
        steps: nodes of the graph.
    """

    steps: list[fx.Node]

    @property
    def inputs(self) -> list[fx.Node]:
        """What the steps read from elsewhere, in the order of the chain's arguments."""
        read = dict.fromkeys(value for step in self.steps for value in step.all_input_nodes)
        return [value for value in read if value not in self.steps]

    @property
    def operands(self) -> list[Operands]:
        """What each step reads."""
        number = {node: i for i, node in enumerate([*self.inputs, *self.steps])}
        read = [[number[value] for value in step.args if isinstance(value, fx.Node)] for step in self.steps]
        return [(values[0], values[1] if len(values) > 1 else None) for values in read]


def replace_chains(
    graph_module: fx.GraphModule,
    fits: Callable[[fx.Node], bool],
    kernel: Callable[[Chain], nn.Module],
    *,
    least: int = 1,
) -> bool:
    """Replace each of the longest chains of steps that fit by one step, its kernel; whether there were any.

    Args:
        graph_module: is changed.
        fits: whether a kernel computes a step.
        kernel: makes the kernel of a chain.
        least: steps of a chain that is worth a kernel.
    """
    found = [chain for chain in _chains(graph_module, fits) if len(chain.steps) >= least]
    for chain in found:
        last = chain.steps[-1]
        name = add_layer(graph_module, f"{chain.steps[0].target}_chain", kernel(chain))
        with graph_module.graph.inserting_before(last):
            last.replace_all_uses_with(graph_module.graph.call_module(name, tuple(chain.inputs)))
        for step in reversed(chain.steps):
            graph_module.graph.erase_node(step)
    recompile(graph_module)
    return bool(found)


def assign_buffers(operands: Sequence[Operands], shapes: Sequence[Shape], inputs: int) -> tuple[list[int], list[Shape]]:
    """Where each value lies: inputs and the chain's result outside, the others in as few buffers as will do.

    Args:
        operands: what each step reads.
        shapes: the shape of each step's result; a buffer serves values of one shape.
        inputs: how many inputs the chain has.

    Returns:
        Each value's buffer (inputs, the chain's result, then those inside), and the shapes of those inside.
    """
    last_use = {value: i for i, read in enumerate(operands) for value in read}
    buffer, inner, free = list(range(inputs)), list[Shape](), list[int]()
    for i, (source, other) in enumerate(operands):
        if i == len(operands) - 1:
            buffer.append(inputs)
            break
        if other is not None and other >= inputs and last_use[other] == i and other != source:
            free.append(buffer[other])  # each value is read before it is overwritten
        fitting = [number for number in free if inner[number - inputs - 1] == shapes[i]]
        if fitting:
            buffer.append(fitting[0])
            free.remove(fitting[0])
        else:
            inner.append(shapes[i])
            buffer.append(inputs + len(inner))
        if source >= inputs and last_use[source] == i:
            free.append(buffer[source])
    return buffer, inner


def _chains(graph_module: fx.GraphModule, fits: Callable[[fx.Node], bool]) -> list[Chain]:
    """The chains in the order in which they run."""
    runs: list[list[fx.Node]] = [[]]
    for node in graph_module.graph.nodes:
        if fits(node):
            runs[-1].append(node)
        else:
            runs.append([])
    found: list[Chain] = []
    for run in runs:
        while run:
            length = next(n for n in range(len(run), 0, -1) if _closed(run[:n]))
            found.append(Chain(run[:length]))
            run = run[length:]
    return found


def _closed(run: list[fx.Node]) -> bool:
    return all(node.users and all(user in run for user in node.users) for node in run[:-1])
