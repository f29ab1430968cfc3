"""A network's fast forms: folded for any device; oneDNN, Winograd, AMX, int8 for CPUs; fused, compiled for GPUs.

A form that a backend cannot make (an untraceable module, a private call that this version of PyTorch lacks,
no compiler) is simply not offered: `forms` gives the fastest first, and the plain one is always there for
float32.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, fx, nn

from .amx import amx_library, floats_to_amx
from .checks import logits_of
from .compiled import compiled_part
from .folding import finished, fold_batch_norm, layer, trace
from .form import Encoding, Form, plain
from .fused_form import kernels_of, pays
from .fusing import fuse, fused_convs, is_last_linear
from .network import Network
from .onednn import to_onednn
from .quantised import fit_of, quantised
from .winograd import to_winograd

_log = logging.getLogger(__name__)
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def forms(
    network: Network, precision: str, batch: int, rows_NCHW: Tensor, *, only: str | None = None
) -> Iterator[Form]:
    """Forms of one precision, fastest first.

    Args:
        network: on its device, in eval mode, float32.
        precision: `fp32`, `bf16` or `int8`.
        batch: rows of each call.
        rows_NCHW: calibration rows, pixels in [0, 1] plus noise; int8 takes its scales from them.
        only: a form's name, if no other is wanted.
    """
    makers: dict[str, Callable[[], Form | None]] = {}
    if precision != "int8":
        dtype = _DTYPES[precision]
        if rows_NCHW.is_cuda:
            if dtype == torch.bfloat16:
                makers["fused"] = lambda: _fused(network, batch, rows_NCHW)
            makers["compiled"] = lambda: _compiled(network, batch, rows_NCHW, dtype)
        else:
            if precision == "fp32":
                makers["winograd"] = lambda: _winograd(network, batch, rows_NCHW)
            else:
                makers["amx"] = lambda: _amx(network, batch, rows_NCHW)
            makers["onednn"] = lambda: _onednn(network, batch, rows_NCHW, dtype)
        makers["folded"] = lambda: _folded(network, batch, dtype)
    elif not rows_NCHW.is_cuda:
        makers["amx"] = lambda: _int8(network, batch, rows_NCHW, amx=True)
        makers["int8"] = lambda: _int8(network, batch, rows_NCHW, amx=False)
    if precision == "fp32":
        makers["plain"] = lambda: plain(network, batch)
    for name, make in makers.items():
        if only not in (None, name):
            continue
        try:
            form = make()
        except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError) as error:
            _log.warning("the %s form of the classifier cannot be made here: %s", name, error)
            continue
        if form is not None:
            yield form


def _parts(network: Network) -> list[fx.GraphModule] | None:
    """Trunk and heads as folded graphs, trunk first; None where one cannot be traced."""
    graphs = [trace(part) for part in (network.trunk, *network.heads)]
    if any(graph is None for graph in graphs):
        return None
    return [fold_batch_norm(graph) for graph in graphs if graph is not None]


def _folded(network: Network, batch: int, dtype: torch.dtype) -> Form | None:
    graphs = _parts(network)
    if graphs is None:
        return None
    trunk, *heads = (_in_dtype(graph, dtype).to(memory_format=torch.channels_last) for graph in graphs)
    precision = "fp32" if dtype == torch.float32 else "bf16"
    return Form("folded", precision, batch, Encoding(network.scale_C, network.shift_C, dtype), trunk, heads)


def _compiled(network: Network, batch: int, rows_NCHW: Tensor, dtype: torch.dtype) -> Form | None:
    folded = _folded(network, batch, dtype)
    if folded is None:
        return None
    trunk, *heads = (compiled_part(part) for part in (folded.trunk, *folded.heads))
    form = replace(folded, name="compiled", trunk=trunk, heads=heads)
    logits_of(form, rows_NCHW[:1])  # compiles now, so that a failure is met here
    return form


def _fused(network: Network, batch: int, rows_NCHW: Tensor) -> Form | None:
    graphs = _parts(network)
    if graphs is None or not pays(fuse(graphs[0])):
        return None
    ready: list[fx.GraphModule] = []
    for graph in (graphs[0], *map(fuse, graphs[1:])):
        kernels = kernels_of(graph)  # they round the float32 weights themselves
        lower = _in_dtype(graph, torch.bfloat16).to(memory_format=torch.channels_last)
        for name, kernel in kernels.items():
            lower.set_submodule(name, kernel)
        ready.append(finished(lower))
    encoding = Encoding(network.scale_C, network.shift_C, torch.bfloat16)
    form = Form("fused", "bf16", batch, encoding, ready[0], ready[1:])
    try:
        logits_of(form, rows_NCHW[:1])  # compiles now, so that a failure is met here
    except Exception as error:
        raise RuntimeError(
            f"the kernels do not run: {error}"
        ) from error  # a compiler fails in any way it likes
    return form


def _onednn(network: Network, batch: int, rows_NCHW: Tensor, dtype: torch.dtype) -> Form | None:
    graphs = _parts(network)
    if graphs is None:
        return None
    encoding = Encoding(network.scale_C, network.shift_C, dtype)
    trunk, *heads = _by_onednn(
        [_in_dtype(fuse(graph), dtype) for graph in graphs], encoding, rows_NCHW, batch
    )
    precision = "fp32" if dtype == torch.float32 else "bf16"
    return Form("onednn", precision, batch, encoding, trunk, heads)


def _winograd(network: Network, batch: int, rows_NCHW: Tensor) -> Form | None:
    """The form of oneDNN, except that its 3 x 3 convolutions take fewer multiplications."""
    graphs = _parts(network)
    if graphs is None:
        return None
    encoding = Encoding(network.scale_C, network.shift_C)
    fused = [fuse(graph) for graph in graphs]
    if not _replaced(to_winograd, fused, encoding, rows_NCHW):
        return None
    trunk, *heads = _by_onednn(fused, encoding, rows_NCHW, batch)
    return Form("winograd", "fp32", batch, encoding, trunk, heads)


def _amx(network: Network, batch: int, rows_NCHW: Tensor) -> Form | None:
    """The form of oneDNN in bfloat16, except for the convolutions that our own kernel computes."""
    graphs = _parts(network)
    if graphs is None:
        return None
    fused = [fuse(graph) for graph in graphs]
    if not _replaced(floats_to_amx, fused, Encoding(network.scale_C, network.shift_C), rows_NCHW):
        return None
    encoding = Encoding(network.scale_C, network.shift_C, torch.bfloat16)
    lower = [_in_dtype(graph, torch.bfloat16) for graph in fused]
    trunk, *heads = _by_onednn(lower, encoding, rows_NCHW, batch)
    return Form("amx", "bf16", batch, encoding, trunk, heads)


def _int8(network: Network, batch: int, rows_NCHW: Tensor, *, amx: bool) -> Form | None:
    graphs = _parts(network)
    if graphs is None or (amx and amx_library() is None):
        return None
    fused = [fuse(graph) for graph in graphs]
    if not any(fused_convs(graph) for graph in fused):
        return None
    if network.fit is None or network.fit.rows_NCHW is not rows_NCHW:
        network.fit = fit_of(network, fused, rows_NCHW)
    return quantised(network, fused, batch, network.fit, amx=amx)


def _replaced(
    kernels: Callable[[fx.GraphModule, Tensor], bool],
    graphs: list[fx.GraphModule],
    encoding: Encoding,
    rows_NCHW: Tensor,
) -> bool:
    """Put kernels of our own into trunk and heads; whether there was a place for any."""
    found = [kernels(graph, rows) for graph, rows in _with_inputs(graphs, encoding, rows_NCHW)]
    return any(found)


def _by_onednn(
    graphs: list[fx.GraphModule], encoding: Encoding, rows_NCHW: Tensor, batch: int
) -> list[fx.GraphModule]:
    return [to_onednn(graph, rows, batch) for graph, rows in _with_inputs(graphs, encoding, rows_NCHW)]


def _with_inputs(
    graphs: list[fx.GraphModule], encoding: Encoding, rows_NCHW: Tensor
) -> list[tuple[fx.GraphModule, Tensor]]:
    """Trunk and heads, each with a few rows of its input."""
    some_rows = encoding(rows_NCHW[:2]).contiguous(memory_format=torch.channels_last)
    features = graphs[0](some_rows)
    return [(graphs[0], some_rows), *((head, features) for head in graphs[1:])]


class _Float32Linear(nn.Module):
    """A last linear layer whose logits stay in float32: in bfloat16 they would often tie."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.linear(x.float())


def _in_dtype(graph_module: fx.GraphModule, dtype: torch.dtype) -> fx.GraphModule:
    """The graph's layers in another dtype, except linear layers that make its result."""
    if dtype == torch.float32:
        return graph_module
    last: dict[str, nn.Linear] = {}
    for node in graph_module.graph.nodes:
        if is_last_linear(graph_module, node):
            last[str(node.target)] = cast(nn.Linear, layer(graph_module, node))
            graph_module.set_submodule(str(node.target), nn.Identity())
    graph_module.to(dtype)
    for name, step in last.items():
        graph_module.set_submodule(name, _Float32Linear(step))
    return finished(graph_module)
