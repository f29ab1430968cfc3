"""The int8 forms: fit the codes of a fused network to calibration rows."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from spacte_core.classifier import Classifier
from spacte_core.forms import Encoding, Form
from spacte_core.kernels.cpu.amx import codes_to_amx
from spacte_core.kernels.graph.fusing import fused_convs

from .layers import Codes, Quantiser, span_codes, steady
from .ranges import Range, Ranges
from .rounding import Rounded, Rounding

_ROWS = 64  # of a batch


@dataclass(frozen=True)
class Fit:
    """What calibration found for each graph of a classifier, by the names of nodes and of their targets.

    Attributes:
        spans: what the codes of a node's values have to span.
        rounded: the weights.
        digest: of the weights' codes and all scales: equal digests are equal functions.
        rows_NCHW: the rows.
    """

    spans: list[dict[str, Range]]
    rounded: list[dict[str, Rounded]]
    digest: str
    rows_NCHW: Tensor


def quantised(classifier: Classifier, graphs: list[fx.GraphModule], batch: int, fit: Fit, *, amx: bool) -> Form | None:
    """The int8 form; None where there is nothing that its kernels compute.

    Args:
        classifier: what is computed.
        graphs: its trunk and heads as fused graphs, in float32.
        batch: rows of each later call.
        fit: to calibration rows.
        amx: whether our own kernel takes the steps that it can; oneDNN takes the rest.
    """
    encoding = Encoding(classifier.scale_C, classifier.shift_C)
    spans = [
        {node: found[node.name] for node in graph.graph.nodes if node.name in found}
        for graph, found in zip(graphs, fit.spans, strict=True)
    ]
    trunk, *heads = graphs
    pixels = next(node for node in trunk.graph.nodes if node.op == "placeholder")
    codes: Codes | None = None
    fused = {node for node, _ in fused_convs(trunk)}
    if pixels.users and all(user in fused for user in pixels.users):
        codes = span_codes(spans[0][pixels].low, spans[0][pixels].high)
        encoding = Encoding(
            tuple(scale / codes.scale for scale in classifier.scale_C),
            tuple(shift / codes.scale + codes.zero for shift in classifier.shift_C),
            torch.uint8,
        )
    coded_trunk, between = Quantiser(trunk, spans[0], codes, batch, fit.rounded[0]).run()
    coded_heads = [
        Quantiser(head, span, between, batch, rounded).run()[0]
        for head, span, rounded in zip(heads, spans[1:], fit.rounded[1:], strict=True)
    ]
    if not amx:
        return Form("int8", "int8", batch, encoding, coded_trunk, coded_heads, fit.digest)
    replaced = [codes_to_amx(graph) for graph in (coded_trunk, *coded_heads)]
    return Form("amx", "int8", batch, encoding, coded_trunk, coded_heads, fit.digest) if any(replaced) else None


def fit_of(classifier: Classifier, graphs: list[fx.GraphModule], rows_NCHW: Tensor) -> Fit:
    """Fit codes to calibration rows, pixels in [0, 1] plus noise."""
    encoding = Encoding(classifier.scale_C, classifier.shift_C)
    ranges = [Ranges(graph) for graph in graphs]
    for x_NCHW in rows_NCHW.split(_ROWS):
        features = ranges[0].run(encoding(x_NCHW).contiguous(memory_format=torch.channels_last))
        for head in ranges[1:]:
            head.run(features)
    roundings = [Rounding(graph) for graph in graphs]
    features = roundings[0].round(encoding(rows_NCHW))
    for head in roundings[1:]:
        head.round(features)
    spans = [{node.name: span for node, span in found.spans().items()} for found in ranges]
    rounded = [found.rounded for found in roundings]
    return Fit(spans, rounded, _digest(spans, rounded), rows_NCHW)


def _digest(spans: list[dict[str, Range]], rounded: list[dict[str, Rounded]]) -> str:
    summary = hashlib.sha256()
    for span in spans:
        for name, found in span.items():
            codes = span_codes(found.low, found.high)
            lifts = [] if found.low_C is None else [steady(-low) for low in found.low_C.tolist() if low < 0]
            summary.update(f"{name} {codes.scale} {codes.zero} {lifts} ".encode())
    for weights in rounded:
        for name, (codes, scale_O) in weights.items():
            summary.update(name.encode() + codes.numpy().tobytes() + scale_O.numpy().tobytes())
    return summary.hexdigest()[:12]
