"""Exact integer noise on the 1/255 grid, the sound noise for 8-bit images (Voracek & Hein 2023).

round(255 (x + eps)) = 255 x + round(255 eps) for on-grid x, so adding z = round(255 sigma N(0, 1)) to the
integer pixels is exact Gaussian smoothing of the classifier composed with rounding: the same theorem, the
same radius, and no low-order bits of x left in a floating-point sum.

Shape suffixes: R rows (samples), P pixels (entries of the image in the order height, width, channel).
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from . import philox
from .table import COLUMN_BITS, NoiseTable

_log = logging.getLogger(__name__)

_LANES = 8  # 16-bit draws from the four 32-bit words of one Philox block
_SHARED_BLOCKS = 1 << 31  # blocks from here on decide between the values of shared columns, one block a pixel
_SIGN = 1 << 63
_CHECKED_ROWS = 3
"""Rows on which compiled noise is compared with the plain one. Chosen: every pixel and lane occurs in each."""


class GridNoise:
    """Draws from one noise table on one device.

    Args:
        table: the law of a pixel's noise.
        pixels: entries of the image, at most 2**31.
        device: where the noise is made.
    """

    def __init__(self, table: NoiseTable, pixels: int, device: torch.device | str = "cpu") -> None:
        self.pixels = pixels
        self.blocks = -(-pixels // _LANES)
        self.first_shared = table.first_shared
        self.value = torch.from_numpy(table.value).to(device)
        self.other = torch.from_numpy(table.other).to(device)
        # Thresholds as signed numbers in the order of the unsigned ones, which torch cannot compare everywhere.
        signed = (table.threshold ^ _SIGN).view("int64")
        self.threshold = torch.from_numpy(signed).to(device)
        self.block = torch.arange(self.blocks, device=device).unsqueeze(0)

    def draw(self, rows_R5: Tensor) -> Tensor:
        """Noise of the named rows in steps of 1/255, int16 [R, P]."""
        column_RP = self._columns(rows_R5)
        z_RP = self.value[column_RP]
        row, pixel = (column_RP >= self.first_shared).nonzero(as_tuple=True)
        shared = column_RP[row, pixel] - self.first_shared
        use_other = self._second_draw(rows_R5[row], pixel.unsqueeze(1)).squeeze(1) >= self.threshold[shared]
        z_RP[row[use_other], pixel[use_other]] = self.other[shared[use_other]]
        return z_RP

    def draw_in_fixed_shapes(self, rows_R5: Tensor) -> Tensor:
        """The same noise, with the second draw made for every pixel: no shape depends on a value.

        More arithmetic and no wait for the host, which is what GPUs want; it can be compiled and captured.
        """
        column_RP = self._columns(rows_R5)
        pixel_P = torch.arange(self.pixels, device=self.block.device)
        shared_RP = (column_RP - self.first_shared).clamp_min(0)
        use_other_RP = self._second_draw(rows_R5, pixel_P.unsqueeze(0)) >= self.threshold[shared_RP]
        use_other_RP &= column_RP >= self.first_shared
        return torch.where(use_other_RP, self.other[shared_RP], self.value[column_RP])

    def _columns(self, rows_R5: Tensor) -> Tensor:
        """The 16-bit draw of each pixel, int64 [R, P]. Lane l of block b belongs to pixel l * blocks + b."""
        words = philox.words(rows_R5, self.block)
        lanes = [word & 0xFFFF for word in words] + [word >> COLUMN_BITS for word in words]
        return torch.cat(lanes, dim=1)[:, : self.pixels]

    def _second_draw(self, rows_R5: Tensor, pixel: Tensor) -> Tensor:
        """64 bits for each row and pixel, as signed numbers in the order of the unsigned ones."""
        low, high, _, _ = philox.words(rows_R5, _SHARED_BLOCKS + pixel)
        return ((high - (1 << 31)) << 32) | low


def compiled_draw(noise: GridNoise) -> Callable[[Tensor], Tensor]:
    """`draw_in_fixed_shapes` as one kernel by torch.compile, if that gives the same bits; else as plain operations."""
    rows_R5 = torch.arange(_CHECKED_ROWS * 5, device=noise.block.device).view(_CHECKED_ROWS, 5)
    try:
        compiled = torch.compile(noise.draw_in_fixed_shapes, dynamic=True, fullgraph=True)
        if torch.equal(compiled(rows_R5), noise.draw_in_fixed_shapes(rows_R5)):
            return compiled
        _log.warning("the compiled noise differs from the plain one, which is used instead")
    except Exception as error:  # noqa: BLE001  a compiler fails in any way it likes
        _log.warning("the noise cannot be compiled here: %s", error)
    return noise.draw_in_fixed_shapes
