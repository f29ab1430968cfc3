"""Noisy rows on which precisions are compared with float32, and from which int8 takes its scales.

Real images are best: pass some of those that will be certified. Without them smooth random images stand in, whose range
and contrast are those of photographs. Either way the comparison is about accuracy, never about soundness, because a
certificate is about the very function that votes.

The rows depend on the model alone, on its input and the work of one row: not on the batch size, which is chosen by
timing, nor on anything else in which two samplers of one certificate could differ.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_FITTED, _COMPARED = 256, 512
"""Rows of each kind. Chosen: the standard error of an agreement of .98 on 512 rows is .006."""

_MAX_VALUES = 1 << 25  # values of all rows. Chosen: 128 MB of float32; larger images get fewer rows
_MACS = 1 << 37
"""Multiply-adds of one pass over the rows of a kind. Chosen: a second or two of a core or two; a ResNet-18 at 224 x 224
pixels gets 75 rows, networks for CIFAR-10 all of them."""

_LEAST = 64  # rows of a kind, whatever one costs. Chosen: of .98 votes that are asked of bf16, one may differ
_SEED = 20_260_101  # of rows that every sampler draws alike. Chosen: any would do


@dataclass(frozen=True)
class Calibration:
    """Noisy rows, pixels in [0, 1] plus noise, float32 [N, C, H, W].

    Attributes:
        fitted: what int8 takes its scales from.
        compared: other rows, on which forms are compared.
    """

    fitted: Tensor
    compared: Tensor

    def affordable(self, macs: int) -> Self:
        """Fewer of the rows where a classifier takes so many multiply-adds for one that all would take long."""
        most = max(_MACS // macs, _LEAST) if macs else _FITTED + _COMPARED
        return type(self)(self.fitted[:most], self.compared[:most])


def calibration_rows(
    input_shape: tuple[int, int, int], sigma: float, images: Any = None, device: Any = "cpu"
) -> Calibration:
    """The rows for a model.

    Args:
        input_shape: (C, H, W).
        sigma: noise sd in units of [0, 1] pixels.
        images: uint8 [M, C, H, W], or None for random ones.
        device: where the rows go.
    """
    share = min(1.0, _MAX_VALUES / math.prod(input_shape) / (_FITTED + _COMPARED))
    fitted, compared = (max(int(count * share), 2) for count in (_FITTED, _COMPARED))
    rows = noisy_rows(input_shape, sigma, fitted + compared, images, device)
    return Calibration(rows[:fitted], rows[fitted:])


def noisy_rows(
    input_shape: tuple[int, int, int], sigma: float, count: int, images: Any = None, device: Any = "cpu"
) -> Tensor:
    """`count` noisy rows of images, or of random ones; arguments as above."""
    generator = torch.Generator().manual_seed(_SEED)
    if images is None:
        clean = _smooth_images(count, input_shape, generator)
    else:
        clean = torch.from_numpy(np.ascontiguousarray(images)).float() / 255
        clean = clean[torch.arange(count) % len(clean)]
    return (clean + sigma * torch.randn(clean.shape, generator=generator)).to(device)


def _smooth_images(count: int, input_shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Random images [count, C, H, W] in [0, 1]: coarse and fine structure, from flat to full contrast."""
    channels, height, width = input_shape
    image = torch.zeros(count, channels, height, width)
    for cells in (2, 4, 8):
        coarse = torch.randn(count, channels, min(cells, height), min(cells, width), generator=generator)
        image += functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=True) / cells**0.5
    contrast = torch.rand(count, 1, 1, 1, generator=generator) * 2
    return (image * contrast).sigmoid()
