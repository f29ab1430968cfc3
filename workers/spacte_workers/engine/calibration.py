"""Noisy rows on which precisions are compared with float32, and from which int8 takes its scales.

Real images are best: pass some of those that will be certified. Without them smooth random images stand in,
    whose
range and contrast are those of photographs; either way the comparison is about accuracy, never about
soundness, because a certificate is about the very function that votes.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_MAX_ROWS = 256
_MAX_VALUES = 1 << 25
_SEED = 20_260_101


def noisy_rows(
    input_shape: tuple[int, int, int], sigma: float, batch: int, images: Any = None, device: Any = "cpu"
) -> Tensor:
    """Calibration rows, pixels in [0, 1] plus noise, float32 [N, C, H, W]; N is a multiple of 2 `batch`.

    Args:
        input_shape: (C, H, W).
        sigma: noise sd in units of [0, 1] pixels.
        batch: rows of a batch.
        images: uint8 [M, C, H, W], or None for random ones.
        device: where the rows go.
    """
    pixels = input_shape[0] * input_shape[1] * input_shape[2]
    wanted = max(2 * batch, min(_MAX_ROWS, _MAX_VALUES // pixels) // (2 * batch) * 2 * batch)
    generator = torch.Generator().manual_seed(_SEED)
    if images is None:
        clean = smooth_images(wanted, input_shape, generator)
    else:
        given = torch.from_numpy(np.ascontiguousarray(images)).float() / 255
        clean = given[torch.arange(wanted) % len(given)]
    return (clean + sigma * torch.randn(clean.shape, generator=generator)).to(device)


def smooth_images(count: int, input_shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Random images [count, C, H, W] in [0, 1]: coarse and fine structure, from flat to full contrast."""
    channels, height, width = input_shape
    image = torch.zeros(count, channels, height, width)
    for cells in (2, 4, 8):
        coarse = torch.randn(count, channels, min(cells, height), min(cells, width), generator=generator)
        image += (
            functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=True) / cells**0.5
        )
    contrast = torch.rand(count, 1, 1, 1, generator=generator) * 2
    return (image * contrast).sigmoid()
