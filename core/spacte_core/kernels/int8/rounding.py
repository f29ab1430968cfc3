"""Weights as 8-bit codes: each is rounded so that it makes up for the errors of those before it.

Rounding to the nearest code minimises the error of a weight, but not that of a layer's result: inputs are correlated,
and errors add up. Here a filter's weights are rounded one after the other, and each error is spread over the weights
still to come, as well as a linear map of the layer's own inputs allows (Hassibi & Stork 1993; Frantar et al. 2023,
"GPTQ"). On a trained ResNet-20 the error that weights leave in the logits falls to a fifth.

All of it is float64, so that the last digits, in which machines may differ, hardly ever decide a code.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from spacte_core.kernels.compiler import call
from spacte_core.kernels.graph.folding import layer_of
from spacte_core.kernels.graph.fusing import FusedConv

from .rounding_kernel import rounding_kernel
from .windows import Windows

_CODES = 127  # codes are -127..127: symmetric, as oneDNN wants weights
_DAMPING = 0.01  # share of the mean second moment that is added to all of them: GPTQ's own
_ROWS = 32  # of calibration
_TOGETHER = 32  # weights of a filter that get the errors of those before them in one product. Chosen: of 16 to 64
_FILTERS = 16  # that the kernel rounds at a time

_MOST_WEIGHTS = 1152
"""Of a filter, 3 x 3 x 128; larger ones are rounded to the nearest code. Chosen: time grows with its cube."""


class Rounded(NamedTuple):
    """A convolution's weights: codes int8 [O, I, k, k] times scale_O float32 [O]."""

    codes: Tensor
    scale_O: Tensor


class WeightRounder(fx.Interpreter):
    """Runs a fused graph in float64 on a few rows and rounds the weights of its convolutions on the way.

    Args:
        graph_module: a fused graph in float32; it stays as it is.

    Attributes:
        rounded: by the target of the step.
    """

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.graph_module = graph_module
        self.rounded: dict[str, Rounded] = {}
        self._needed: set[fx.Node] = set()

    def round(self, x_NCHW: Tensor, *, wanted: bool = True) -> Tensor | None:
        """Round for inputs like these, of which a few are used; gives the graph's result, in float64, if wanted."""
        self._needed = _needed(self.graph_module, wanted)
        return self.run(x_NCHW[:_ROWS].double())

    def run_node(self, n: fx.Node) -> Any:
        """The step in float64, None where nobody needs it; a convolution is rounded."""
        step = layer_of(self.graph_module, n)
        if isinstance(step, FusedConv):
            return self._convolution(n, step)
        return super().run_node(n) if n in self._needed or n.op == "placeholder" else None

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The layer in float64."""
        layer = self.fetch_attr(target)
        doubled = {name: value.double() for name, value in (*layer.named_parameters(), *layer.named_buffers())}
        return torch.func.functional_call(layer, doubled, args, kwargs)

    def _convolution(self, node: fx.Node, step: FusedConv) -> Tensor | None:
        (x_NCHW, *other), _ = self.fetch_args_kwargs_from_env(node)
        seen = Windows(step.conv, x_NCHW) if step.conv.groups == 1 and x_NCHW is not None else None
        self.rounded[str(node.target)] = round_weights(step.conv, seen)
        if node not in self._needed:
            return None
        if seen is None:
            return self.call_module(node.target, (x_NCHW, *other), {})
        y_NCHW = seen.convolved()
        for residual in other:
            y_NCHW += residual
        return y_NCHW.relu_() if step.relu else y_NCHW


def round_weights(conv: nn.Conv2d, seen: Windows | None) -> Rounded:
    """The weights of a convolution, rounded for what it sees of its inputs; to the nearest code without feedback."""
    weight_OK = conv.weight.detach().flatten(1)
    scale_O = weight_OK.abs().amax(1).clamp_min(1e-12) / _CODES  # also for a filter of zeros
    if seen is not None and _has_feedback(conv):
        units_OCT = (weight_OK.double() / scale_O[:, None].double()).view(*conv.weight.shape[:2], -1)
        codes = _with_feedback(units_OCT, seen.moments())
    else:
        codes = (weight_OK / scale_O[:, None]).round()
    return Rounded(codes.to(torch.int8).reshape(conv.weight.shape), scale_O)


def _has_feedback(conv: nn.Conv2d) -> bool:
    return conv.groups == 1 and conv.weight[0].numel() <= _MOST_WEIGHTS


def _needed(graph_module: fx.GraphModule, wanted: bool) -> set[fx.Node]:
    """The nodes whose values are read: by the rounding of weights, or for the graph's result."""
    needed = set[fx.Node]()
    for node in reversed(graph_module.graph.nodes):
        step = layer_of(graph_module, node)
        if node.op == "output" and wanted:
            needed.add(node)
        if node in needed:
            needed.update(node.all_input_nodes)
        if isinstance(step, FusedConv) and _has_feedback(step.conv):
            needed.add(node.args[0])
    return needed


def _with_feedback(units_OCT: Tensor, moment_TCTC: Tensor) -> Tensor:
    """Whole numbers in place of weights in units of a code; those of the largest inputs are rounded first.

    With L the lower factor of the moments, weights in the reverse order, a filter's squared error is a sum over its
    weights of L_kk^2 (e_k + sum over j > k of L_jk e_j / L_kk)^2: going from the last to the first, each weight makes
    up for the errors e_j of those behind it. That is GPTQ, whose updates need the moments' inverse (Chee et al. 2023).
    """
    _, channels, taps = units_OCT.shape
    moment_KK = moment_TCTC.flatten(2).flatten(0, 1)
    mean = moment_KK.diagonal().mean()
    moment_KK.diagonal().add_(_DAMPING * mean + 1e-12)  # also for inputs of zero
    by_channel = moment_KK.diagonal().view(taps, channels).T.flatten()
    order = _rounded(by_channel).argsort(descending=True, stable=True).flip(0)
    places = order % taps * channels + order // taps
    factor_KK = torch.linalg.cholesky(_ordered(moment_KK, places))
    factor_KK /= factor_KK.diagonal().clone()
    codes_KO = _round_in_turn(factor_KK.T, units_OCT.flatten(1).T[order])
    return codes_KO[order.argsort()].T


def _ordered(moment_KK: Tensor, places: Tensor) -> Tensor:
    """The moments in an order, as far as their lower factor depends on them."""
    kernel = rounding_kernel()
    if kernel is None:
        return moment_KK.index_select(0, places).index_select(1, places)
    ordered_KK = torch.zeros_like(moment_KK)
    call(kernel.spacte_ordered, moment_KK, places, len(places), torch.get_num_threads(), ordered_KK)
    return ordered_KK


def _round_in_turn(shares_KK: Tensor, units_KO: Tensor) -> Tensor:
    """Codes of weights from the last to the first, of units and of the shares of the errors behind each weight."""
    kernel = rounding_kernel()
    if kernel is None:
        return _round_in_blocks(shares_KK, units_KO)
    padded_KO = functional.pad(units_KO, (0, -units_KO.shape[1] % _FILTERS))
    codes_KO, errors_KO = torch.empty_like(padded_KO), torch.empty_like(padded_KO)
    call(kernel.spacte_round, shares_KK.contiguous(), padded_KO, *padded_KO.shape, _CODES, codes_KO, errors_KO)
    return codes_KO[:, : units_KO.shape[1]]


def _round_in_blocks(shares_KK: Tensor, units_KO: Tensor) -> Tensor:
    """The same without a compiler, in which sums have another order."""
    codes_KO, errors_KO = torch.empty_like(units_KO), torch.empty_like(units_KO)
    for stop in range(len(units_KO), 0, -_TOGETHER):
        block = slice(max(stop - _TOGETHER, 0), stop)
        due_kO = torch.addmm(units_KO[block], shares_KK[block, stop:], errors_KO[stop:])
        _round_block(due_kO, units_KO[block], shares_KK[block, block].contiguous(), codes_KO[block], errors_KO[block])
    return codes_KO


def _rounded(values: Tensor) -> Tensor:
    """To 30 bits: values that are equal but for the order of their sums become equal, so that this decides nothing."""
    mantissa, exponent = torch.frexp(values)
    return torch.ldexp((mantissa * 2**30).round(), exponent)


def _round_block(due_kO: Tensor, units_kO: Tensor, factor_kk: Tensor, codes_kO: Tensor, errors_kO: Tensor) -> None:
    """Round a few rows from the last to the first, each with the errors of those behind it, into the last two.

    In NumPy, whose calls take a third of the time of PyTorch's on rows as short as these; a row is a weight's place.
    """
    due, units, factor, codes, errors = (part.numpy() for part in (due_kO, units_kO, factor_kk, codes_kO, errors_kO))
    for k in reversed(range(len(due))):
        codes_O = codes[k]
        np.rint(due[k] + factor[k, k + 1 :] @ errors[k + 1 :], out=codes_O)
        np.maximum(codes_O, -_CODES, out=codes_O)
        np.minimum(codes_O, _CODES, out=codes_O)
        np.subtract(units[k], codes_O, out=errors[k])
