"""Exact integer noise on the 1/255 grid, the sound noise for 8-bit images (Voracek & Hein 2023).

round(255 (x + eps)) = 255 x + round(255 eps) for on-grid x, so adding z = round(255 sigma N(0, 1)) to the
integer pixels is exact Gaussian smoothing of the classifier composed with rounding: the same theorem, the
same radius, and no low-order bits of x left in a floating-point sum.

Shape suffixes: R rows (samples), P pixels (entries of the image in the order height, width, channel).
"""

import torch
from torch import Tensor

from . import philox
from .table import COLUMN_BITS, NoiseTable

_LANES = 8  # 16-bit draws from the four 32-bit words of one Philox block
_SHARED_BLOCKS = 1 << 31  # blocks from here on settle shared columns, one block a pixel
_SIGN = 1 << 63


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
        # Thresholds as signed numbers with the order of the unsigned ones, which torch cannot compare
        # everywhere.
        signed = (table.threshold ^ _SIGN).view("int64")
        self.threshold = torch.from_numpy(signed).to(device)
        self.block = torch.arange(self.blocks, device=device).unsqueeze(0)

    def draw(self, rows_R5: Tensor) -> Tensor:
        """Noise of the named rows in steps of 1/255, int16 [R, P]."""
        z_RP, column_RP = self.first_values(rows_R5)
        return self.settle(z_RP, column_RP, rows_R5)

    def draw_in_fixed_shapes(self, rows_R5: Tensor) -> Tensor:
        """The same noise, with the settling bits drawn for every pixel: no shape hangs on a value.

        More arithmetic and no wait for the host, which is what GPUs want; it can be compiled and captured.
        """
        z_RP, column_RP = self.first_values(rows_R5)
        pixel_P = torch.arange(self.pixels, device=self.block.device)
        shared_RP = (column_RP - self.first_shared).clamp_min(0)
        use_other_RP = self._settling(rows_R5, pixel_P.unsqueeze(0)) >= self.threshold[shared_RP]
        use_other_RP &= column_RP >= self.first_shared
        return torch.where(use_other_RP, self.other[shared_RP], z_RP)

    def first_values(self, rows_R5: Tensor) -> tuple[Tensor, Tensor]:
        """The first value of the column that each pixel draws, and the column, both [R, P]."""
        column_RP = self.columns(rows_R5)
        return self.value[column_RP], column_RP

    def columns(self, rows_R5: Tensor) -> Tensor:
        """The 16-bit draw of each pixel, int64 [R, P]. Lane l of block b belongs to pixel l * blocks + b."""
        words = philox.words(rows_R5, self.block)
        lanes = [word & 0xFFFF for word in words] + [word >> COLUMN_BITS for word in words]
        return torch.cat(lanes, dim=1)[:, : self.pixels]

    def settle(self, z_RP: Tensor, column_RP: Tensor, rows_R5: Tensor) -> Tensor:
        """Put the right one of two values where a pixel drew a shared column; changes and returns z_RP."""
        row, pixel = (column_RP >= self.first_shared).nonzero(as_tuple=True)
        shared = column_RP[row, pixel] - self.first_shared
        use_other = self._settling(rows_R5[row], pixel.unsqueeze(1)).squeeze(1) >= self.threshold[shared]
        z_RP[row[use_other], pixel[use_other]] = self.other[shared[use_other]]
        return z_RP

    def _settling(self, rows_R5: Tensor, pixel: Tensor) -> Tensor:
        """64 bits for each row and pixel, as signed numbers in the order of the unsigned ones."""
        low, high, _, _ = philox.words(rows_R5, _SHARED_BLOCKS + pixel)
        return ((high - (1 << 31)) << 32) | low
