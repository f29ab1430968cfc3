"""The int8 form: calibrates a fused network and settles how much of the range its codes span."""

import torch
from torch import Tensor, fx

from .checks import logits_of
from .form import Encoding, Form, total
from .fusing import fused_convs
from .int8 import Codes, Quantiser, span_codes
from .network import Network
from .ranges import Clip, Ranges

_SHARES = (1.0, 0.98, 0.95, 0.9)
_ENOUGH = 0.99  # agreement at which no other share is tried


def quantised(network: Network, graphs: list[fx.GraphModule], batch: int, rows_NCHW: Tensor) -> Form | None:
    """The int8 form that agrees best on its calibration rows; None where there is nothing to quantise.

    Args:
        network: what is computed.
        graphs: its trunk and heads as fused graphs, in float32.
        batch: rows of each later call.
        rows_NCHW: calibration rows, pixels in [0, 1] plus noise.
    """
    if not any(fused_convs(graph) for graph in graphs):
        return None
    encoding = Encoding(network.scale_C, network.shift_C)
    trunk, *heads = (Ranges(graph) for graph in graphs)
    votes: list[Tensor] = []
    for x in rows_NCHW.split(batch):
        features = trunk.run(encoding(x).contiguous(memory_format=torch.channels_last))
        votes.append(total([head.run(features) for head in heads]).argmax(1))
    votes_N = torch.cat(votes)
    best: tuple[float, Form] | None = None
    for share in _SHARES:
        form = _form(network, graphs, [ranges.clips(share) for ranges in (trunk, *heads)], batch)
        agreed = (logits_of(form, rows_NCHW).argmax(1) == votes_N).double().mean().item()
        if best is None or agreed > best[0]:
            best = agreed, form
        if agreed >= _ENOUGH:
            break
    return None if best is None else best[1]


def _form(
    network: Network, graphs: list[fx.GraphModule], clips: list[dict[fx.Node, Clip]], batch: int
) -> Form:
    encoding = Encoding(network.scale_C, network.shift_C)
    trunk, *heads = graphs
    pixels = next(node for node in trunk.graph.nodes if node.op == "placeholder")
    codes: Codes | None = None
    fused = {node for node, _ in fused_convs(trunk)}
    if pixels.users and all(user in fused for user in pixels.users):
        codes = span_codes(clips[0][pixels].low, clips[0][pixels].high)
        encoding = Encoding(
            tuple(scale / codes.scale for scale in network.scale_C),
            tuple(shift / codes.scale + codes.zero for shift in network.shift_C),
            torch.uint8,
        )
    coded_trunk, between = Quantiser(trunk, clips[0], codes, batch).run()
    coded_heads = [
        Quantiser(head, clip, between, batch).run()[0] for head, clip in zip(heads, clips[1:], strict=True)
    ]
    return Form("int8", "int8", batch, encoding, coded_trunk, coded_heads)
