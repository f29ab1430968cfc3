"""The int8 form: fits the codes of a fused network to calibration rows."""

import torch
from torch import Tensor, fx

from .amx import codes_to_amx
from .form import Encoding, Form
from .fusing import fused_convs
from .int8 import Codes, Quantiser, span_codes
from .network import Network
from .ranges import Ranges


def quantised(
    network: Network, graphs: list[fx.GraphModule], batch: int, rows_NCHW: Tensor, *, amx: bool
) -> Form | None:
    """The int8 form; None where there is nothing to quantise, or nothing that its kernels compute.

    Args:
        network: what is computed.
        graphs: its trunk and heads as fused graphs, in float32.
        batch: rows of each later call.
        rows_NCHW: calibration rows, pixels in [0, 1] plus noise.
        amx: whether our own kernel takes the steps that it can; oneDNN takes the rest.
    """
    if not any(fused_convs(graph) for graph in graphs):
        return None
    encoding = Encoding(network.scale_C, network.shift_C)
    ranges = [Ranges(graph) for graph in graphs]
    for x in rows_NCHW.split(batch):
        features = ranges[0].run(encoding(x).contiguous(memory_format=torch.channels_last))
        for head in ranges[1:]:
            head.run(features)
    spans = [found.spans() for found in ranges]
    trunk, *heads = graphs
    pixels = next(node for node in trunk.graph.nodes if node.op == "placeholder")
    codes: Codes | None = None
    fused = {node for node, _ in fused_convs(trunk)}
    if pixels.users and all(user in fused for user in pixels.users):
        codes = span_codes(spans[0][pixels].low, spans[0][pixels].high)
        encoding = Encoding(
            tuple(scale / codes.scale for scale in network.scale_C),
            tuple(shift / codes.scale + codes.zero for shift in network.shift_C),
            torch.uint8,
        )
    coded_trunk, between = Quantiser(trunk, spans[0], codes, batch).run()
    coded_heads = [
        Quantiser(head, span, between, batch).run()[0] for head, span in zip(heads, spans[1:], strict=True)
    ]
    if not amx:
        return Form("int8", "int8", batch, encoding, coded_trunk, coded_heads)
    replaced = [codes_to_amx(graph) for graph in (coded_trunk, *coded_heads)]
    return Form("amx", "int8", batch, encoding, coded_trunk, coded_heads) if any(replaced) else None
