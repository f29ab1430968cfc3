"""The noise compiled for GPUs by torch.compile; plain operations where it cannot be or differs."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from spacte_workers.noise.grid import GridNoise

_log = logging.getLogger(__name__)
_PROOF_ROWS = 3


def fused_noise(noise: GridNoise) -> Callable[[Tensor], Tensor]:
    """The noise in fixed shapes as one kernel, if that gives the same bits; else as plain operations."""
    rows_R5 = torch.arange(_PROOF_ROWS * 5, device=noise.block.device).view(_PROOF_ROWS, 5)
    try:
        fused = torch.compile(noise.draw_in_fixed_shapes, dynamic=True, fullgraph=True)
        if torch.equal(fused(rows_R5), noise.draw_in_fixed_shapes(rows_R5)):
            return fused
        _log.warning("the compiled noise differs from the plain one, which is used instead")
    except Exception as error:  # noqa: BLE001  a compiler fails in any way it likes
        _log.warning("the noise cannot be compiled here: %s", error)
    return noise.draw_in_fixed_shapes
