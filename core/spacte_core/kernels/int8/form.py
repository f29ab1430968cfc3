"""The int8 forms: codes fitted to calibration rows, and the fused network on them."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor, fx

from spacte_core.forms import Classifier, Encoding, Form
from spacte_core.kernels.cpu.chain import codes_to_chains
from spacte_core.kernels.cpu.row_by_row import logits_row_by_row
from spacte_core.kernels.cpu.targets import Target
from spacte_core.kernels.graph.fusing import fused_convs
from spacte_core.kernels.row_wise import is_row_wise

from .layers import Codes, codes_for, pack, round_up
from .quantiser import Quantiser
from .ranges import Range, RangeObserver
from .rounding import Rounded, WeightRounder

PORTABLE = "portable"
"""The name of the form whose results are the same bits on every target for chains."""

_ROWS = 64
"""Calibration rows that are observed at a time. Chosen: their maps fit in memory for an ImageNet network, too."""


@dataclass(frozen=True)
class Fit:
    """What calibration found for each graph of a classifier, trunk first.

    Attributes:
        ranges: that the codes of values have to cover, by the names of nodes.
        rounded: the weights, by the targets of steps.
        digest: of the weights' codes and all scales: equal digests are equal functions.
        rows_NCHW: the calibration rows.
    """

    ranges: list[dict[str, Range]]
    rounded: list[dict[str, Rounded]]
    digest: str
    rows_NCHW: Tensor

    def as_plain(self) -> dict[str, Any]:
        """Dictionaries, numbers and tensors, for a file; without the rows."""
        ranges = [{name: asdict(seen) for name, seen in of_graph.items()} for of_graph in self.ranges]
        rounded = [{name: weights._asdict() for name, weights in of_graph.items()} for of_graph in self.rounded]
        return {"ranges": ranges, "rounded": rounded, "digest": self.digest}

    @classmethod
    def of_plain(cls, plain: dict[str, Any], rows_NCHW: Tensor) -> Self | None:
        """What `as_plain` gave; None where it is no longer what it was."""
        ranges = [{name: Range(**seen) for name, seen in of_graph.items()} for of_graph in plain["ranges"]]
        rounded = [{name: Rounded(**weights) for name, weights in of_graph.items()} for of_graph in plain["rounded"]]
        fit = cls(ranges, rounded, plain["digest"], rows_NCHW)
        return fit if fit.digest == _digest(ranges, rounded) else None


def fit_codes(classifier: Classifier, graphs: list[fx.GraphModule], rows_NCHW: Tensor) -> Fit:
    """Fit codes to calibration rows, pixels in [0, 1] plus noise."""
    observers, rounders = list(map(RangeObserver, graphs)), list(map(WeightRounder, graphs))
    for x_NCHW in rows_NCHW.split(_ROWS):
        features = observers[0].run(classifier.encoding(x_NCHW))
        for head in observers[1:]:
            head.run(features)
    features = rounders[0].round(classifier.encoding(rows_NCHW), wanted=any(map(fused_convs, graphs[1:])))
    for head in rounders[1:]:
        if features is not None:
            head.round(features, wanted=False)
    ranges, rounded = [part.ranges() for part in observers], [part.rounded for part in rounders]
    return Fit(ranges, rounded, _digest(ranges, rounded), rows_NCHW)


def int8_form(
    classifier: Classifier,
    graphs: list[fx.GraphModule],
    batch: int,
    fit: Fit,
    target: Target | None,
    *,
    portable: bool = False,
) -> Form | None:
    """The int8 form; None where the target computes nothing of it, or not all of it and it has to be portable.

    Args:
        classifier: what is computed.
        graphs: its trunk and heads as fused graphs, in float32.
        batch: rows of each later call.
        fit: to calibration rows.
        target: computes chains of the steps that it can, oneDNN the rest; None leaves all to oneDNN.
        portable: whether all steps have to be ours, which give the same bits on every target.
    """
    encoding = classifier.encoding
    trunk, *heads = graphs
    pixels = next(node for node in trunk.graph.nodes if node.op == "placeholder")
    codes: Codes | None = None
    if pixels.users and set(pixels.users) <= {node for node, _ in fused_convs(trunk)}:
        codes = codes_for(fit.ranges[0][pixels.name].low, fit.ranges[0][pixels.name].high)
        encoding = Encoding(
            tuple(scale / codes.scale for scale in encoding.scale_C),
            tuple(shift / codes.scale + codes.zero for shift in encoding.shift_C),
            torch.uint8,
        )
    trunk, between = Quantiser(trunk, fit.ranges[0], codes, batch, fit.rounded[0]).run()
    heads = [
        Quantiser(head, ranges, between, batch, rounded).run()[0]
        for head, ranges, rounded in zip(heads, fit.ranges[1:], fit.rounded[1:], strict=True)
    ]
    name, parts = "int8", [trunk, *heads]
    if target is not None:
        name = PORTABLE if portable else target.form
        replaced = [codes_to_chains(graph, target) for graph in parts]
        if not any(replaced):
            return None
        parts = [logits_row_by_row(graph, target, torch.uint8, portable=portable) for graph in parts]
    row_wise = all(map(is_row_wise, parts))
    if portable and not row_wise:
        return None
    for part in parts:
        pack(part)
    return Form(name, "int8", batch, encoding, parts[0], parts[1:], fit.digest, any_batch=row_wise)


def _digest(ranges: list[dict[str, Range]], rounded: list[dict[str, Rounded]]) -> str:
    summary = hashlib.sha256()
    for of_graph in ranges:
        for name, seen in of_graph.items():
            codes = codes_for(seen.low, seen.high)
            lifts = [] if seen.low_C is None else [round_up(-low) for low in seen.low_C.tolist() if low < 0]
            summary.update(f"{name} {codes.scale} {codes.zero} {lifts} ".encode())
    for weights in rounded:
        for name, (codes, scale_O) in weights.items():
            summary.update(name.encode() + codes.numpy().tobytes() + scale_O.numpy().tobytes())
    return summary.hexdigest()[:12]
