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

from spacte_core.kernels.graph.fusing import FusedConv

_CODES = 127  # codes are -127..127: symmetric, as oneDNN wants weights
_DAMPING = 0.01  # share of the mean second moment that is added to all of them: GPTQ's own
_ROWS, _PATCHES, _MOST_VALUES = 32, 2048, 1 << 24
"""Calibration rows, patches of a layer, and values of all patches that these are taken from. Chosen: more patches than
`_MOST_WEIGHTS`."""

_TOGETHER, _STRIP = 32, 144
"""Weights of a filter whose errors reach those after them in one product, and columns of a strip of moments. Chosen: of
half and twice as many the fastest, with 576 weights."""

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
        self.rounded: dict[str, Rounded] = {}

    def round(self, x_NCHW: Tensor) -> Tensor:
        """Round for inputs like these, of which a few are used; gives the graph's result, in float64."""
        return self.run(x_NCHW[:_ROWS].double())

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The step in float64; a convolution is rounded first."""
        step = self.fetch_attr(target)
        if isinstance(step, FusedConv):
            self.rounded[str(target)] = round_weights(step.conv, args[0])
        doubled = {name: value.double() for name, value in (*step.named_parameters(), *step.named_buffers())}
        return torch.func.functional_call(step, doubled, args, kwargs)


def round_weights(conv: nn.Conv2d, x_NCHW: Tensor) -> Rounded:
    """The weights of a convolution, rounded for such inputs; to the nearest code where a filter is very large."""
    weight_OK = conv.weight.detach().flatten(1)
    scale_O = weight_OK.abs().amax(1).clamp_min(1e-12) / _CODES  # also for a filter of zeros
    if conv.groups > 1 or weight_OK.shape[1] > _MOST_WEIGHTS:
        codes_OK = (weight_OK / scale_O[:, None]).round()
    else:
        codes_OK = _with_feedback(weight_OK.double() / scale_O[:, None].double(), _patches(conv, x_NCHW.detach()))
    return Rounded(codes_OK.to(torch.int8).reshape(conv.weight.shape), scale_O)


def _patches(conv: nn.Conv2d, x_NCHW: Tensor) -> Tensor:
    """What a filter sees at a few pixels, float64 [N, K]."""
    values = x_NCHW[0].numel() * conv.kernel_size[0] * conv.kernel_size[1]
    few_NCHW = x_NCHW[: max(1, _MOST_VALUES // values)]
    height, width = (int(p) for p in conv.padding)
    windows = functional.pad(few_NCHW, (width, width, height, height))
    for dim in (2, 3):
        span = conv.dilation[dim - 2] * (conv.kernel_size[dim - 2] - 1) + 1
        windows = windows.unfold(dim, span, conv.stride[dim - 2])
    windows_NHWCkk = windows[..., :: conv.dilation[0], :: conv.dilation[1]].permute(0, 2, 3, 1, 4, 5)
    places = windows_NHWCkk.shape[:3]
    chosen = np.arange(0, places.numel(), max(1, places.numel() // _PATCHES))
    return windows_NHWCkk[tuple(map(torch.from_numpy, np.unravel_index(chosen, places)))].flatten(1)


def _with_feedback(weight_OK: Tensor, patches_NK: Tensor) -> Tensor:
    """Whole numbers in place of weights in units of a code; those of the largest inputs are rounded first."""
    moment_KK = _moments(patches_NK)
    mean = moment_KK.diagonal().mean()
    moment_KK += (_DAMPING * mean + 1e-12) * torch.eye(len(moment_KK), dtype=torch.float64)  # also for inputs of zero
    order = moment_KK.diagonal().argsort(descending=True, stable=True)
    spread_KK = _upper_factor_of_inverse(moment_KK[order][:, order])
    left_KO = weight_OK[:, order].T.contiguous()
    codes_KO, errors_KO = torch.empty_like(left_KO), torch.empty_like(left_KO)
    for start in range(0, len(left_KO), _TOGETHER):
        block = slice(start, start + _TOGETHER)
        _round_block(left_KO[block], spread_KK[block, block], codes_KO[block], errors_KO[block])
        left_KO[block.stop :].addmm_(spread_KK[block, block.stop :].T, errors_KO[block], alpha=-1)
    return codes_KO.T[:, order.argsort()]


def _round_block(left_kO: Tensor, spread_kk: Tensor, codes_kO: Tensor, errors_kO: Tensor) -> None:
    """Round a few rows one after the other, each by what the errors of those before it leave of it, into the last two.

    In NumPy, whose calls take a third of the time of PyTorch's on rows as short as these; a row is a weight's place.
    """
    left, spread, codes, errors = (part.numpy() for part in (left_kO, spread_kk, codes_kO, errors_kO))
    for k, (left_O, codes_O, errors_O) in enumerate(zip(left, codes, errors, strict=True)):
        left_O -= spread[:k, k] @ errors[:k]
        np.rint(left_O, out=codes_O)
        np.maximum(codes_O, -_CODES, out=codes_O)
        np.minimum(codes_O, _CODES, out=codes_O)
        np.subtract(left_O, codes_O, out=errors_O)
        errors_O /= spread[k, k]


def _moments(patches_NK: Tensor) -> Tensor:
    """The sums of all products of two columns: their lower triangle by strips, and its mirror image."""
    moment_KK = patches_NK.new_zeros((patches_NK.shape[1],) * 2)
    for start in range(0, len(moment_KK), _STRIP):
        end = min(start + _STRIP, len(moment_KK))
        torch.mm(patches_NK[:, start:end].T, patches_NK[:, :end], out=moment_KK[start:end, :end])
    return moment_KK.tril() + moment_KK.tril(-1).T


def _upper_factor_of_inverse(matrix_KK: Tensor) -> Tensor:
    """The upper triangle U with U^T U the inverse of a positive definite matrix: that of its factor R, with R R^T."""
    factor_KK = torch.linalg.cholesky(matrix_KK.flip(0, 1)).flip(0, 1)
    unit_KK = torch.eye(len(matrix_KK), dtype=matrix_KK.dtype)
    return torch.linalg.solve_triangular(factor_KK, unit_KK, upper=True)
