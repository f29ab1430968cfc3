"""A base classifier taken apart: an affine encoding of pixels, a trunk that runs once, and heads that answer."""

from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass
class Classifier:
    """Logits of head l are heads[l](trunk(scale_C x + shift_C)).

    Attributes:
        scale_C, shift_C: per channel, from pixels in [0, 1] to what the trunk sees.
        trunk: encoded pixels to features, one tensor whose first dimension is the batch.
        heads: features to logits [B, K].
        fitted: what kernels fitted to calibration rows; it serves all batch sizes.
    """

    scale_C: tuple[float, ...]
    shift_C: tuple[float, ...]
    trunk: nn.Module
    heads: tuple[nn.Module, ...]
    fitted: dict[str, Any] = field(default_factory=dict)
