"""What the values of a network's layers span on calibration rows, for 8-bit codes to be fitted to."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

MARGIN = 1.5
"""How much further codes reach than calibration rows did. Images to come go beyond those, above all where random
ones stood in for them, and a value that is cut off costs more than a coarser code."""


@dataclass(frozen=True)
class Range:
    """What a node's values were on the calibration rows, or what its codes have to span.

    Attributes:
        low, high: least and greatest value.
        low_C: least value in each channel, of 4-d values.
        shape: of the node's tensor.
    """

    low: float
    high: float
    low_C: Tensor | None
    shape: torch.Size

    def wider(self) -> "Range":
        """The range with its margin."""
        low_C = None if self.low_C is None else self.low_C * MARGIN
        return Range(self.low * MARGIN, self.high * MARGIN, low_C, self.shape)


class Ranges(fx.Interpreter):
    """Runs a fused graph in float32 and keeps the range of each node's values."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.seen: dict[fx.Node, Range] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run the node, and add the range of its values."""
        result = super().run_node(n)
        if isinstance(result, Tensor) and result.is_floating_point() and result.dim() > 1:
            low_C = result.amin((0, 2, 3)) if result.dim() == 4 else None
            fresh = Range(result.min().item(), result.max().item(), low_C, result.shape)
            self.seen[n] = fresh if n not in self.seen else _joined(self.seen[n], fresh)
        return result

    def spans(self) -> dict[fx.Node, Range]:
        """What codes have to span."""
        return {node: seen.wider() for node, seen in self.seen.items()}


def _joined(a: Range, b: Range) -> Range:
    low_C = None if a.low_C is None or b.low_C is None else torch.minimum(a.low_C, b.low_C)
    return Range(min(a.low, b.low), max(a.high, b.high), low_C, a.shape)
