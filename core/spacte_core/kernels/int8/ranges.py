"""The ranges of a network's values on calibration rows, to which 8-bit codes are fitted."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from spacte_core.kernels.graph.folding import layer_of
from spacte_core.kernels.graph.fusing import FusedConv

MARGIN = 1.5
"""How much further codes reach than calibration rows did. Images to come go beyond those, above all where random ones
stood in for them, and a value that is cut off costs more than a coarser code: of 1, 1.25 and 1.5 the last had the
smallest error on test images (benchmarks/results/engine_cpu.md, "int8 on trained weights")."""


@dataclass(frozen=True)
class Range:
    """Bounds of a node's values.

    Attributes:
        low, high: least and greatest value.
        low_C: least value in each channel, of 4-d values; 0 behind a ReLU.
        shape: of the node's tensor.
    """

    low: float
    high: float
    low_C: Tensor | None
    shape: torch.Size


class RangeObserver(fx.Interpreter):
    """Runs a fused graph in float32 and observes the range of each node's values."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.graph_module = graph_module
        self.seen: dict[fx.Node, Range] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run the node, and join the range of its values with what was seen."""
        result = super().run_node(n)
        if isinstance(result, Tensor) and result.is_floating_point() and result.dim() > 1:
            step = layer_of(self.graph_module, n)
            if isinstance(step, FusedConv) and step.relu:  # nothing asks how far above zero they begin
                low_C = result.new_zeros(result.shape[1])
            else:
                low_C = result.amin((0, 2, 3)) if result.dim() == 4 else None
            low = result.min() if low_C is None else low_C.min()
            fresh = Range(low.item(), result.amax().item(), low_C, result.shape)
            self.seen[n] = _joined(self.seen.get(n, fresh), fresh)
        return result

    def ranges(self) -> dict[str, Range]:
        """The ranges that codes have to cover, with their margin, by the nodes' names."""
        return {
            node.name: replace(
                seen,
                low=seen.low * MARGIN,
                high=seen.high * MARGIN,
                low_C=None if seen.low_C is None else seen.low_C * MARGIN,
            )
            for node, seen in self.seen.items()
        }


def _joined(a: Range, b: Range) -> Range:
    low_C = None if a.low_C is None or b.low_C is None else torch.minimum(a.low_C, b.low_C)
    return Range(min(a.low, b.low), max(a.high, b.high), low_C, a.shape)
