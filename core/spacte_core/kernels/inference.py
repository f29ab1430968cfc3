"""A classifier's fast forms: folded for any device; oneDNN, Winograd, AMX, int8 for CPUs; fused, compiled for GPUs.

A form that a backend cannot make (a private call that this version of PyTorch lacks, no compiler) is not offered. A
module that cannot be traced has none.
"""

import copy
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, fx, nn

from spacte_core.forms import Classifier, Encoding, Form, Part, logits_of
from spacte_core.kernel_switch import kernels_enabled

from .cpu.amx import amx_library, floats_to_amx
from .cpu.onednn import to_onednn
from .cpu.winograd import to_winograd
from .gpu.fused_conv import fused_kernels, mostly_narrow
from .graph.folding import fold_batch_norm, layer_of, recompile, trace
from .graph.fusing import fuse, fused_convs, is_last_linear
from .int8.form import fit_codes, int8_form

_log = logging.getLogger(__name__)
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.float32}
"""Of a classifier's layers, save those that run on 8-bit codes."""


@dataclass(frozen=True)
class Plan:
    """What a form is to be made of.

    Attributes:
        classifier, precision, batch, rows_NCHW: see `optimized_forms`.
        graphs: the folded trunk and heads, copies for this form alone.
    """

    classifier: Classifier
    precision: str
    batch: int
    rows_NCHW: Tensor
    graphs: list[fx.GraphModule]

    def encoding(self, dtype: torch.dtype | None = None) -> Encoding:
        """Of the trunk's input, in the precision's dtype unless another is named."""
        return replace(self.classifier.encoding, dtype=dtype or _DTYPES[self.precision])

    def form(self, name: str, parts: list[fx.GraphModule]) -> Form:
        """The form of trunk and heads."""
        return Form(name, self.precision, self.batch, self.encoding(), parts[0], parts[1:])

    def with_inputs(self, graphs: list[fx.GraphModule], encoding: Encoding) -> list[tuple[fx.GraphModule, Tensor]]:
        """Trunk and heads, each with a few rows of its input."""
        some_rows = encoding(self.rows_NCHW[:2])
        features = graphs[0](some_rows)
        return [(graphs[0], some_rows), *((head, features) for head in graphs[1:])]


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
    makers = [
        (name, make)
        for name, make, *switches in _MAKERS["cuda" if rows_NCHW.is_cuda else "cpu", precision]
        if only in (None, name) and all(map(kernels_enabled, switches))
    ]
    graphs = _folded_graphs(classifier) if makers else None
    if graphs is None:
        return
    for name, make in makers:
        try:
            form = make(Plan(classifier, precision, batch, rows_NCHW, copy.deepcopy(graphs)))
        except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError) as error:
            _log.warning("the %s form of the classifier cannot be made here: %s", name, error)
            continue
        if form is not None:
            yield form


def _folded_graphs(classifier: Classifier) -> list[fx.GraphModule] | None:
    """Trunk and heads, trunk first; None where one cannot be traced."""
    graphs = [trace(part) for part in (classifier.trunk, *classifier.heads)]
    traced = [fold_batch_norm(graph) for graph in graphs if graph is not None]
    return traced if len(traced) == len(graphs) else None


def _folded(plan: Plan) -> Form | None:
    graphs = (_in_dtype(graph, _DTYPES[plan.precision]) for graph in plan.graphs)
    return plan.form("folded", [graph.to(memory_format=torch.channels_last) for graph in graphs])


def _compiled(plan: Plan) -> Form | None:
    folded = cast(Form, _folded(plan))
    trunk, *heads = (_compiled_part(part) for part in (folded.trunk, *folded.heads))
    form = replace(folded, name="compiled", trunk=trunk, heads=heads)
    logits_of(form, plan.rows_NCHW[:1])  # compiles, so that a failure shows here
    return form


def _compiled_part(part: Part) -> Part:
    """The part compiled for one shape, at its first call."""
    return torch.compile(part, dynamic=False, fullgraph=True)


def _fused(plan: Plan) -> Form | None:
    graphs = [fuse(graph) for graph in plan.graphs]
    if not mostly_narrow(graphs[0]):
        return None
    parts: list[fx.GraphModule] = []
    for graph in graphs:
        kernels = fused_kernels(graph)  # they round the float32 weights themselves
        lower = _in_dtype(graph, torch.bfloat16).to(memory_format=torch.channels_last)
        for name, kernel in kernels.items():
            lower.set_submodule(name, kernel)
        parts.append(recompile(lower))
    form = plan.form("fused", parts)
    try:
        logits_of(form, plan.rows_NCHW[:1])  # compiles, so that a failure shows here
    except Exception as error:
        raise RuntimeError(f"the kernels do not run: {error}") from error  # a compiler fails in any way it likes
    return form


def _onednn(plan: Plan) -> Form | None:
    return _by_onednn(plan, "onednn", [fuse(graph) for graph in plan.graphs])


def _winograd(plan: Plan) -> Form | None:
    """The form of oneDNN, except that its 3 x 3 convolutions take fewer multiplications."""
    fused = [fuse(graph) for graph in plan.graphs]
    replaced = [to_winograd(graph, rows) for graph, rows in plan.with_inputs(fused, plan.encoding())]
    return _by_onednn(plan, "winograd", fused) if any(replaced) else None


def _amx(plan: Plan) -> Form | None:
    """The form of oneDNN in bfloat16, except for the convolutions that the kernel for AMX computes."""
    fused = [fuse(graph) for graph in plan.graphs]
    replaced = [floats_to_amx(graph, rows) for graph, rows in plan.with_inputs(fused, plan.encoding(torch.float32))]
    return _by_onednn(plan, "amx", fused) if any(replaced) else None


def _by_onednn(plan: Plan, name: str, fused: list[fx.GraphModule]) -> Form:
    lower = [_in_dtype(graph, _DTYPES[plan.precision]) for graph in fused]
    with_inputs = plan.with_inputs(lower, plan.encoding())
    return plan.form(name, [to_onednn(graph, rows, plan.batch) for graph, rows in with_inputs])


def _int8(plan: Plan, *, amx: bool = False) -> Form | None:
    fused = [fuse(graph) for graph in plan.graphs]
    if not any(map(fused_convs, fused)) or (amx and amx_library() is None):
        return None
    fitted = plan.classifier.fitted
    if "int8" not in fitted or fitted["int8"].rows_NCHW is not plan.rows_NCHW:
        fitted["int8"] = fit_codes(plan.classifier, fused, plan.rows_NCHW)
    return int8_form(plan.classifier, fused, plan.batch, fitted["int8"], amx=amx)


def _int8_amx(plan: Plan) -> Form | None:
    return _int8(plan, amx=True)


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
            last[str(node.target)] = cast(nn.Linear, layer_of(graph_module, node))
            graph_module.set_submodule(str(node.target), nn.Identity())
    graph_module.to(dtype)
    for name, linear in last.items():
        graph_module.set_submodule(name, _Float32Linear(linear))
    return recompile(graph_module)


Maker = tuple[str, Callable[[Plan], Form | None], *tuple[str, ...]]
_ANYWHERE: tuple[Maker, ...] = (("folded", _folded, "folding"),)
_COMPILED: Maker = ("compiled", _compiled, "folding")
_MAKERS: dict[tuple[str, str], tuple[Maker, ...]] = {
    ("cpu", "fp32"): (("winograd", _winograd, "winograd"), ("onednn", _onednn, "onednn"), *_ANYWHERE),
    ("cpu", "bf16"): (("amx", _amx, "amx"), ("onednn", _onednn, "onednn"), *_ANYWHERE),
    ("cpu", "int8"): (("amx", _int8_amx, "amx", "int8"), ("int8", _int8, "int8")),
    ("cuda", "fp32"): (_COMPILED, *_ANYWHERE),
    ("cuda", "bf16"): (("fused", _fused, "triton_conv"), _COMPILED, *_ANYWHERE),
    ("cuda", "int8"): (),
}
"""Device and precision -> forms, fastest first: a name, its function, and names in `SPACTE_KERNELS` that it needs."""
