"""A classifier's fast forms: folded for any device; oneDNN, Winograd, AMX, int8 for CPUs; fused, compiled for GPUs.

A form that a backend cannot make (an untraceable module, a private call that this version of PyTorch lacks, no
compiler) is not offered.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, fx, nn

from spacte_core.classifier import Classifier
from spacte_core.forms import Encoding, Form, Part, logits_of
from spacte_core.kernel_switch import kernels_enabled

from .cpu.amx import amx_library, floats_to_amx
from .cpu.onednn import to_onednn
from .cpu.winograd import to_winograd
from .gpu.fused_conv import kernels_of, pays
from .graph.folding import finished, fold_batch_norm, layer, trace
from .graph.fusing import fuse, fused_convs, is_last_linear
from .int8.quantised import fit_of, quantised

_log = logging.getLogger(__name__)
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_SWITCHES = {
    ("amx", "int8"): ("amx", "int8"),
    ("fused", "bf16"): ("triton_conv",),
    ("folded", "fp32"): ("folding",),
    ("folded", "bf16"): ("folding",),
    ("compiled", "fp32"): ("folding",),
    ("compiled", "bf16"): ("folding",),
}
"""(form, precision) -> names in `SPACTE_KERNELS` that switch it off, where they are not the form's own name."""


def optimized_forms(
    classifier: Classifier, precision: str, batch: int, rows_NCHW: Tensor, *, only: str | None = None
) -> Iterator[Form]:
    """Forms of one precision, fastest first.

    Args:
        classifier: on its device, in eval mode, float32.
        precision: `fp32`, `bf16` or `int8`.
        batch: rows of each call.
        rows_NCHW: calibration rows, pixels in [0, 1] plus noise; int8 takes its scales from them.
        only: a form's name, if no other is wanted.
    """
    makers: dict[str, Callable[[], Form | None]] = {}
    if precision == "int8":
        if not rows_NCHW.is_cuda:
            makers["amx"] = lambda: _int8(classifier, batch, rows_NCHW, amx=True)
            makers["int8"] = lambda: _int8(classifier, batch, rows_NCHW, amx=False)
    else:
        dtype = _DTYPES[precision]
        if rows_NCHW.is_cuda:
            if dtype == torch.bfloat16:
                makers["fused"] = lambda: _fused(classifier, batch, rows_NCHW)
            makers["compiled"] = lambda: _compiled(classifier, batch, rows_NCHW, dtype)
        else:
            if precision == "fp32":
                makers["winograd"] = lambda: _winograd(classifier, batch, rows_NCHW)
            else:
                makers["amx"] = lambda: _amx(classifier, batch, rows_NCHW)
            makers["onednn"] = lambda: _onednn(classifier, batch, rows_NCHW, dtype)
        makers["folded"] = lambda: _folded(classifier, batch, dtype)
    for name, make in makers.items():
        if only not in (None, name) or not all(map(kernels_enabled, _SWITCHES.get((name, precision), (name,)))):
            continue
        try:
            form = make()
        except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError) as error:
            _log.warning("the %s form of the classifier cannot be made here: %s", name, error)
            continue
        if form is not None:
            yield form


def _parts(classifier: Classifier) -> list[fx.GraphModule] | None:
    """Trunk and heads as folded graphs, trunk first; None where one cannot be traced."""
    graphs = [trace(part) for part in (classifier.trunk, *classifier.heads)]
    if any(graph is None for graph in graphs):
        return None
    return [fold_batch_norm(graph) for graph in graphs if graph is not None]


def _folded(classifier: Classifier, batch: int, dtype: torch.dtype) -> Form | None:
    graphs = _parts(classifier)
    if graphs is None:
        return None
    trunk, *heads = (_in_dtype(graph, dtype).to(memory_format=torch.channels_last) for graph in graphs)
    precision = "fp32" if dtype == torch.float32 else "bf16"
    return Form("folded", precision, batch, Encoding(classifier.scale_C, classifier.shift_C, dtype), trunk, heads)


def _compiled(classifier: Classifier, batch: int, rows_NCHW: Tensor, dtype: torch.dtype) -> Form | None:
    folded = _folded(classifier, batch, dtype)
    if folded is None:
        return None
    trunk, *heads = (_compiled_part(part) for part in (folded.trunk, *folded.heads))
    form = replace(folded, name="compiled", trunk=trunk, heads=heads)
    logits_of(form, rows_NCHW[:1])  # compiles now, so that a failure is met here
    return form


def _compiled_part(part: Part) -> Part:
    """The part compiled for the one shape that it will meet; errors come with its first call."""
    return torch.compile(part, dynamic=False, fullgraph=True)


def _fused(classifier: Classifier, batch: int, rows_NCHW: Tensor) -> Form | None:
    graphs = _parts(classifier)
    if graphs is None or not pays(fuse(graphs[0])):
        return None
    ready: list[fx.GraphModule] = []
    for graph in (graphs[0], *map(fuse, graphs[1:])):
        kernels = kernels_of(graph)  # they round the float32 weights themselves
        lower = _in_dtype(graph, torch.bfloat16).to(memory_format=torch.channels_last)
        for name, kernel in kernels.items():
            lower.set_submodule(name, kernel)
        ready.append(finished(lower))
    encoding = Encoding(classifier.scale_C, classifier.shift_C, torch.bfloat16)
    form = Form("fused", "bf16", batch, encoding, ready[0], ready[1:])
    try:
        logits_of(form, rows_NCHW[:1])  # compiles now, so that a failure is met here
    except Exception as error:
        raise RuntimeError(f"the kernels do not run: {error}") from error  # a compiler fails in any way it likes
    return form


def _onednn(classifier: Classifier, batch: int, rows_NCHW: Tensor, dtype: torch.dtype) -> Form | None:
    graphs = _parts(classifier)
    if graphs is None:
        return None
    encoding = Encoding(classifier.scale_C, classifier.shift_C, dtype)
    trunk, *heads = _by_onednn([_in_dtype(fuse(graph), dtype) for graph in graphs], encoding, rows_NCHW, batch)
    precision = "fp32" if dtype == torch.float32 else "bf16"
    return Form("onednn", precision, batch, encoding, trunk, heads)


def _winograd(classifier: Classifier, batch: int, rows_NCHW: Tensor) -> Form | None:
    """The form of oneDNN, except that its 3 x 3 convolutions take fewer multiplications."""
    graphs = _parts(classifier)
    if graphs is None:
        return None
    encoding = Encoding(classifier.scale_C, classifier.shift_C)
    fused = [fuse(graph) for graph in graphs]
    if not _replaced(to_winograd, fused, encoding, rows_NCHW):
        return None
    trunk, *heads = _by_onednn(fused, encoding, rows_NCHW, batch)
    return Form("winograd", "fp32", batch, encoding, trunk, heads)


def _amx(classifier: Classifier, batch: int, rows_NCHW: Tensor) -> Form | None:
    """The form of oneDNN in bfloat16, except for the convolutions that our own kernel computes."""
    graphs = _parts(classifier)
    if graphs is None:
        return None
    fused = [fuse(graph) for graph in graphs]
    if not _replaced(floats_to_amx, fused, Encoding(classifier.scale_C, classifier.shift_C), rows_NCHW):
        return None
    encoding = Encoding(classifier.scale_C, classifier.shift_C, torch.bfloat16)
    lower = [_in_dtype(graph, torch.bfloat16) for graph in fused]
    trunk, *heads = _by_onednn(lower, encoding, rows_NCHW, batch)
    return Form("amx", "bf16", batch, encoding, trunk, heads)


def _int8(classifier: Classifier, batch: int, rows_NCHW: Tensor, *, amx: bool) -> Form | None:
    graphs = _parts(classifier)
    if graphs is None or (amx and amx_library() is None):
        return None
    fused = [fuse(graph) for graph in graphs]
    if not any(fused_convs(graph) for graph in fused):
        return None
    fit = classifier.fitted.get("int8")
    if fit is None or fit.rows_NCHW is not rows_NCHW:
        fit = classifier.fitted["int8"] = fit_of(classifier, fused, rows_NCHW)
    return quantised(classifier, fused, batch, fit, amx=amx)


def _replaced(
    kernels: Callable[[fx.GraphModule, Tensor], bool],
    graphs: list[fx.GraphModule],
    encoding: Encoding,
    rows_NCHW: Tensor,
) -> bool:
    """Put kernels of our own into trunk and heads; whether there was a place for any."""
    found = [kernels(graph, rows) for graph, rows in _with_inputs(graphs, encoding, rows_NCHW)]
    return any(found)


def _by_onednn(graphs: list[fx.GraphModule], encoding: Encoding, rows_NCHW: Tensor, batch: int) -> list[fx.GraphModule]:
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
