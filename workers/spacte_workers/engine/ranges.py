"""What the values of a network's layers span on calibration rows, for 8-bit codes to be fitted to."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx


@dataclass
class Range:
    """What a node's values were on the calibration rows.

    Attributes:
        low_N, high_N: least and greatest value in each row.
        low_NC: least value in each row and channel, of 4-d values.
        shape: of the node's tensor.
    """

    low_N: Tensor
    high_N: Tensor
    low_NC: Tensor | None
    shape: torch.Size

    def clip(self, share: float) -> "Clip":
        """The range that holds the extremes of this share of rows.

        A few noisy images have activations far beyond all others; scales that span those would be too coarse
        for the rest.
        """
        low_C = None if self.low_NC is None else self.low_NC.quantile(1 - share, dim=0)
        low, high = self.low_N.quantile(1 - share).item(), self.high_N.quantile(share).item()
        return Clip(low, high, low_C, self.shape)


@dataclass(frozen=True)
class Clip:
    """The values of a node that codes have to span; see `Range`."""

    low: float
    high: float
    low_C: Tensor | None
    shape: torch.Size


class Ranges(fx.Interpreter):
    """Runs a fused graph in float32 and keeps the range of each node's values."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.seen: dict[fx.Node, Range] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run the node, and add the ranges of its rows."""
        result = super().run_node(n)
        if isinstance(result, Tensor) and result.is_floating_point() and result.dim() > 1:
            rows = result.flatten(1)
            low_NC = result.amin((2, 3)) if result.dim() == 4 else None
            fresh = Range(rows.amin(1), rows.amax(1), low_NC, result.shape)
            self.seen[n] = fresh if n not in self.seen else _joined(self.seen[n], fresh)
        return result

    def clips(self, share: float) -> dict[fx.Node, Clip]:
        """What codes have to span for this share of rows."""
        return {node: seen.clip(share) for node, seen in self.seen.items()}


def _joined(a: Range, b: Range) -> Range:
    low_NC = None if a.low_NC is None or b.low_NC is None else torch.cat([a.low_NC, b.low_NC])
    return Range(torch.cat([a.low_N, b.low_N]), torch.cat([a.high_N, b.high_N]), low_NC, a.shape)
