"""A classifier's fast forms: folded for any device; oneDNN, Winograd, chains, int8 for CPUs; fused, compiled for GPUs.

A form that a backend cannot make (a private call that this version of PyTorch lacks, no compiler) is not offered. A
module that cannot be traced has none.
"""

import copy
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, fx, nn

from spacte_core.forms import Classifier, Form, logits_of
from spacte_core.kernel_switch import kernels_enabled

from .cpu.chain import floats_to_chains
from .cpu.onednn import to_onednn
from .cpu.row_by_row import logits_row_by_row
from .cpu.targets import DTYPES, TARGETS, CpuTargetError, Target, target_for, targets_for
from .cpu.winograd_layers import to_winograd_layers
from .gpu.fused_conv import fused_kernels, mostly_narrow
from .graph.folding import fold_batch_norm, layer_of, recompile
from .graph.fusing import fuse, fused_convs, is_last_linear
from .graph.pooling import delay_pooling
from .graph.tracing import trace
from .int8.form import PORTABLE, fit_codes, int8_form
from .row_wise import is_row_wise

_log = logging.getLogger(__name__)

_FORMS: dict[tuple[str, str], dict[str, tuple[str, ...]]] = {
    ("cpu", "fp32"): {"winograd": ("winograd",), "onednn": ("onednn",), "folded": ("folding",)},
    ("cpu", "bf16"): {"onednn": ("onednn",), "folded": ("folding",)},
    ("cpu", "int8"): {"int8": ("int8",)},
    ("cuda", "fp32"): {"compiled": ("folding",), "folded": ("folding",)},
    ("cuda", "bf16"): {"fused": ("triton_conv",), "compiled": ("folding",), "folded": ("folding",)},
    ("cuda", "int8"): {},
}
"""Device and precision -> forms, fastest first, each with the names in `SPACTE_KERNELS` that it needs.

On a CPU with a target for chains, the form of that comes before these."""


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
    offered = _FORMS["cuda" if rows_NCHW.is_cuda else "cpu", precision]
    target = None if rows_NCHW.is_cuda else _chain_target(precision, only)
    if target is not None:
        offered = {target.form: (), **offered}
    if only == PORTABLE and precision == "int8" and not rows_NCHW.is_cuda:
        offered = {PORTABLE: ("chain", "int8")}
    names = [name for name in offered if only in (None, name) and all(map(kernels_enabled, offered[name]))]
    folded = folded_graphs(classifier) if names else []
    for name in names if folded else ():
        try:
            maker = FormMaker(classifier, precision, batch, rows_NCHW, copy.deepcopy(folded))
            form = maker.make(name, target)
            if form is not None:
                form = _tried(form, rows_NCHW)
        except CpuTargetError:
            raise
        except Exception as error:  # noqa: BLE001  compilers and private calls fail in any way they like
            _log.warning("the %s form of the classifier cannot be made here: %s", name, error)
            continue
        if form is not None:
            yield form


def _tried(form: Form, rows_NCHW: Tensor) -> Form:
    """The form after a first call, where a failure or what is left to compile shows; for any batch if it is as it says.

    A network whose rows meet in one of its steps has other logits for another batch.
    """
    if not form.any_batch:
        logits_of(form, rows_NCHW[:1])
        return form
    alone, together = (logits_of(replace(form, batch=batch), rows_NCHW[:2]) for batch in (1, 2))
    return replace(form, any_batch=torch.equal(alone, together))


def _chain_target(precision: str, only: str | None) -> Target | None:
    """The best target for chains in this precision, or that of the form asked for; None where it is switched off."""
    names = {None, *(target.form for target in TARGETS)}
    if precision not in ("bf16", "int8") or only not in names or not kernels_enabled("chain"):
        return None
    target = target_for(DTYPES[precision], only)
    switches = [name for name in ("amx", "int8") if target is not None and name in (target.form, precision)]
    return target if all(map(kernels_enabled, switches)) else None


def folded_graphs(classifier: Classifier) -> list[fx.GraphModule]:
    """Trunk and heads as folded graphs, traced once; none where one of them cannot be traced."""
    if "folded" not in classifier.fitted:
        graphs = [trace(part) for part in (classifier.trunk, *classifier.heads)]
        folded = [fold_batch_norm(delay_pooling(graph)) for graph in graphs if graph is not None]
        classifier.fitted["folded"] = folded if len(folded) == len(graphs) else []
    return classifier.fitted["folded"]


@dataclass(frozen=True)
class FormMaker:
    """Makes one form, by the method of its name; None where the kernels asked for compute nothing of the classifier.

    Attributes:
        classifier, precision, batch, rows_NCHW: see `optimized_forms`.
        graphs: the folded trunk and heads, copies for this form alone.
    """

    classifier: Classifier
    precision: str
    batch: int
    rows_NCHW: Tensor
    graphs: list[fx.GraphModule]

    @property
    def dtype(self) -> torch.dtype:
        """Of the layers, save those on 8-bit codes."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def make(self, name: str, target: Target | None) -> Form | None:
        """The form of that name; `target` is the one for chains."""
        return self.chains(target) if target is not None and name == target.form else getattr(self, name)()

    def folded(self) -> Form:
        """Batch normalisation in the convolutions."""
        graphs = (_in_dtype(graph, self.dtype) for graph in self.graphs)
        return self._form("folded", [graph.to(memory_format=torch.channels_last) for graph in graphs])

    def compiled(self) -> Form:
        """The folded form compiled for one shape by torch.compile."""
        plain = self.folded()
        parts = [torch.compile(part, dynamic=False, fullgraph=True) for part in (plain.trunk, *plain.heads)]
        return replace(plain, name="compiled", trunk=parts[0], heads=parts[1:])

    def fused(self) -> Form | None:
        """Convolution, residual and ReLU in one kernel of ours or of cuDNN's, where most convolutions are narrow."""
        graphs = self._fuse()
        if not mostly_narrow(graphs[0]):
            return None
        parts: list[fx.GraphModule] = []
        for graph in graphs:
            kernels = fused_kernels(graph)  # they round the float32 weights themselves
            lower = _in_dtype(graph, self.dtype).to(memory_format=torch.channels_last)
            for name, kernel in kernels.items():
                lower.set_submodule(name, kernel)
            parts.append(recompile(lower))
        return self._form("fused", parts)

    def onednn(self) -> Form:
        """Convolution, residual and ReLU in one call of oneDNN."""
        return self._by_onednn("onednn", self._fuse())

    def winograd(self) -> Form | None:
        """The form of oneDNN, except that its 3 x 3 convolutions take fewer multiplications.

        Narrow layers are chains; what is left of the others, single layers.
        """
        graphs, target = self._fuse(), target_for(torch.float32) if kernels_enabled("chain") else None
        replaced: list[bool] = []
        if target is not None:
            replaced += self._to_chains(graphs, target)
            graphs = [logits_row_by_row(graph, target, torch.float32) for graph in graphs]
        replaced += [to_winograd_layers(graph, rows) for graph, rows in self._with_inputs(graphs, torch.float32)]
        if not any(replaced):
            return None
        return replace(self._by_onednn("winograd", graphs), any_batch=all(map(is_row_wise, graphs)))

    def portable(self) -> Form | None:
        """Convolutions on 8-bit codes, all of them by the best target that can: on each the bits are the same."""
        return self.int8(*targets_for(torch.uint8), portable=True)

    def chains(self, target: Target) -> Form | None:
        """The form of oneDNN in bfloat16 or int8, except for the chains that the target computes."""
        if self.precision == "int8":
            return self.int8(target)
        graphs = self._fuse()
        if not any(self._to_chains(graphs, target)):
            return None
        form = self._by_onednn(target.form, [logits_row_by_row(graph, target, self.dtype) for graph in graphs])
        return replace(form, any_batch=all(map(is_row_wise, graphs)))

    def int8(self, *targets: Target, portable: bool = False) -> Form | None:
        """Convolutions on 8-bit codes, by the first of the targets that can, or by oneDNN where none is named."""
        graphs, fitted = self._fuse(), self.classifier.fitted
        if not any(map(fused_convs, graphs)):
            return None
        if "int8" not in fitted or fitted["int8"].rows_NCHW is not self.rows_NCHW:
            fitted["int8"] = fit_codes(self.classifier, graphs, self.rows_NCHW)
        for target in targets if targets or portable else (None,):
            form = int8_form(self.classifier, graphs, self.batch, fitted["int8"], target, portable=portable)
            if form is not None:
                return form
        return None

    def _fuse(self) -> list[fx.GraphModule]:
        return [fuse(graph, rows) for graph, rows in self._with_inputs(self.graphs, torch.float32)]

    def _to_chains(self, fused: list[fx.GraphModule], target: Target) -> list[bool]:
        """Puts chains into fused graphs; whether there were any in each."""
        with_inputs = self._with_inputs(fused, torch.float32)
        return [floats_to_chains(graph, rows, self.dtype, target) for graph, rows in with_inputs]

    def _by_onednn(self, name: str, fused: list[fx.GraphModule]) -> Form:
        with_inputs = self._with_inputs([_in_dtype(graph, self.dtype) for graph in fused], self.dtype)
        return self._form(name, [to_onednn(graph, rows, self.batch) for graph, rows in with_inputs])

    def _with_inputs(self, graphs: list[fx.GraphModule], dtype: torch.dtype) -> list[tuple[fx.GraphModule, Tensor]]:
        """Trunk and heads in `dtype`, each with a few rows of its input."""
        some_rows = replace(self.classifier.encoding, dtype=dtype)(self.rows_NCHW[:2])
        features = graphs[0](some_rows)
        return [(graphs[0], some_rows), *((head, features) for head in graphs[1:])]

    def _form(self, name: str, parts: list[fx.GraphModule]) -> Form:
        encoding = replace(self.classifier.encoding, dtype=self.dtype)
        return Form(name, self.precision, self.batch, encoding, parts[0], parts[1:])


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
