"""Chains: steps of a graph that one kernel takes a few images through, so that their maps stay in the cache."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import fx, nn

from .folding import own_name

Shape = TypeVar("Shape", bound=Hashable)

Takes = tuple[int, int | None]
"""Numbers of the values that a step takes, its source and its residual: first the chain's inputs, then each
step's result."""


@dataclass(frozen=True)
class Chain:
    """Steps one after the other, of which only the last one's result is used elsewhere.

    Attributes:
        steps: nodes of the graph.
    """

    steps: list[fx.Node]

    @property
    def given(self) -> list[fx.Node]:
        """What the steps take from elsewhere, in the order of the chain's arguments."""
        taken = [value for step in self.steps for value in step.all_input_nodes]
        return list(dict.fromkeys(value for value in taken if value not in self.steps))

    @property
    def takes(self) -> list[Takes]:
        """What each step takes."""
        number = {node: i for i, node in enumerate([*self.given, *self.steps])}
        nodes = [[number[value] for value in step.args if isinstance(value, fx.Node)] for step in self.steps]
        return [(taken[0], taken[1] if len(taken) > 1 else None) for taken in nodes]


def chains(graph_module: fx.GraphModule, fits: Callable[[fx.Node], bool]) -> list[Chain]:
    """The longest chains of steps that fit a kernel, in the order in which they run."""
    runs: list[list[fx.Node]] = [[]]
    for node in graph_module.graph.nodes:
        if fits(node):
            runs[-1].append(node)
        elif runs[-1]:
            runs.append([])
    found: list[Chain] = []
    for run in runs:
        while run:
            length = next(n for n in range(len(run), 0, -1) if _closed(run[:n]))
            found.append(Chain(run[:length]))
            run = run[length:]
    return found


def put(graph_module: fx.GraphModule, chain: Chain, kernel: nn.Module) -> fx.Node:
    """Put one step, the kernel, in the place of a chain; returns its node."""
    name = own_name(graph_module, f"{chain.steps[0].target}_chain")
    graph_module.add_submodule(name, kernel)
    last = chain.steps[-1]
    with graph_module.graph.inserting_before(last):
        node = graph_module.graph.call_module(name, tuple(chain.given))
    last.replace_all_uses_with(node)
    for step in reversed(chain.steps):
        graph_module.graph.erase_node(step)
    return node


def places(takes: Sequence[Takes], shapes: Sequence[Shape], inputs: int) -> tuple[list[int], list[Shape]]:
    """Where each value lies: inputs and the chain's result outside, the others in as few maps as will do.

    Args:
        takes: what each step takes.
        shapes: the shape of each step's result; a map serves values of one shape.
        inputs: how many values the chain is given.

    Returns:
        The number of each value's map, and the shapes of the maps inside, which are numbered after the others.
    """
    last_use = {value: i for i, taken in enumerate(takes) for value in taken}
    place, own, free = list(range(inputs)), list[Shape](), list[int]()
    for i, (source, other) in enumerate(takes):
        if i == len(takes) - 1:
            place.append(inputs)
            break
        if other is not None and other >= inputs and last_use[other] == i and other != source:
            free.append(place[other])  # written over as it is read
        fitting = [number for number in free if own[number - inputs - 1] == shapes[i]]
        if fitting:
            place.append(fitting[0])
            free.remove(fitting[0])
        else:
            own.append(shapes[i])
            place.append(inputs + len(own))
        if source >= inputs and last_use[source] == i:
            free.append(place[source])
    return place, own


def _closed(run: list[fx.Node]) -> bool:
    return all(node.users and all(user in run for user in node.users) for node in run[:-1])
