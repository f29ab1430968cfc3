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
"""Calibration rows, patches of a layer, and values unfolded at a time. Chosen: more patches than `_MOST_WEIGHTS`, and
128 MB of float64."""

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
        codes_OK = _with_feedback(weight_OK.double() / scale_O[:, None].double(), _patches(conv, x_NCHW))
    return Rounded(codes_OK.to(torch.int8).reshape(conv.weight.shape), scale_O)


def _patches(conv: nn.Conv2d, x_NCHW: Tensor) -> Tensor:
    """What a filter sees at a few pixels, float64 [N, K]."""
    values = x_NCHW[0].numel() * conv.kernel_size[0] * conv.kernel_size[1]
    few_NCHW = x_NCHW[: max(1, _MOST_VALUES // values)]
    height, width = (int(p) for p in conv.padding)
    seen_NKL = functional.unfold(few_NCHW, conv.kernel_size, conv.dilation, (height, width), conv.stride)
    seen_NK = seen_NKL.transpose(1, 2).flatten(0, 1)
    return seen_NK[:: max(1, len(seen_NK) // _PATCHES)]


def _with_feedback(weight_OK: Tensor, patches_NK: Tensor) -> Tensor:
    """Whole numbers in place of weights in units of a code; those of the largest inputs are rounded first."""
    moment_KK = patches_NK.T @ patches_NK
    mean = moment_KK.diagonal().mean()
    moment_KK += (_DAMPING * mean + 1e-12) * torch.eye(len(moment_KK), dtype=torch.float64)  # also for inputs of zero
    order = moment_KK.diagonal().argsort(descending=True, stable=True)
    inverse_KK = torch.linalg.inv(moment_KK[order][:, order])
    spread_KK = torch.linalg.cholesky(inverse_KK, upper=True)
    # In NumPy, whose calls take a third of the time of PyTorch's on rows as short as these; a row is a weight's place.
    left_KO = np.ascontiguousarray(weight_OK[:, order].T.detach().numpy())
    codes_KO = np.empty_like(left_KO)
    spread = spread_KK.detach().numpy()
    for k, (left_O, codes_O) in enumerate(zip(left_KO, codes_KO, strict=True)):
        np.clip(np.rint(left_O), -_CODES, _CODES, out=codes_O)
        error_O = (left_O - codes_O) / spread[k, k]
        left_KO[k + 1 :] -= spread[k, k + 1 :, None] * error_O
    return torch.from_numpy(codes_KO).T[:, order.argsort()]
