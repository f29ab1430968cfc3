"""The noise step: named rows and pixels in, encoded noisy images of a fixed batch shape out.

Shape suffixes: S shards and their images, R rows of the batch, P pixels in the order height, width, channel; B = R in
x_BCHW.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from spacte_core.forms import Encoding
from spacte_core.kernel_switch import kernels_enabled
from spacte_workers.images import BadImageError, to_array
from spacte_workers.noise.gaussian import GaussianNoise
from spacte_workers.noise.grid import GridNoise, compiled_draw
from spacte_workers.noise.philox import ROW_WORDS
from spacte_workers.noise.table import NoiseTable, noise_table
from spacte_workers.shards import Image

if TYPE_CHECKING:
    from spacte_core.kernels.cpu.grid_noise import GridNoiseKernel

_STEPS = 255  # of an 8-bit pixel
_CHECKED_ROWS = 3  # rows on which the kernel's bits are compared. Chosen: every pixel and lane occurs in each


class NoiseStep:
    """Adds noise of one kind and level to images of one shape, without clipping, and encodes the sum.

    For grid noise the sum is an integer, and only that integer goes on: nothing of the image's own value can be read
    from rounding errors.

    Args:
        input_shape: (C, H, W).
        encoding: what the trunk wants.
        device: where the noise is made.
        noise: `grid`, `float` or `none`.
        sigma: noise sd in units of [0, 1] pixels.
    """

    def __init__(
        self, input_shape: tuple[int, int, int], encoding: Encoding, device: torch.device, noise: str, sigma: float
    ) -> None:
        self.channels, self.height, self.width = input_shape
        self.pixels = self.channels * self.height * self.width
        self.sigma, self.dtype, self.device = sigma, encoding.dtype, device
        self.grid, self.none = noise == "grid", noise == "none"
        self.pixel_type = torch.int16 if self.grid else torch.float32
        unit = _STEPS if self.grid else 1
        rounding = 0.5 if self.dtype == torch.uint8 else 0.0
        scale_C = torch.tensor(encoding.scale_C, dtype=torch.float64) / unit
        shift_C = torch.tensor(encoding.shift_C, dtype=torch.float64) + rounding
        self.scale_P, self.shift_P = (
            values_C.float().repeat(self.height * self.width).to(device) for values_C in (scale_C, shift_C)
        )
        self.kernel: GridNoiseKernel | None = None
        if self.grid:
            table = noise_table(sigma)
            noise_of_rows = GridNoise(table, self.pixels, device)
            self.draw_grid = noise_of_rows.draw if device.type == "cpu" else noise_of_rows.draw_in_fixed_shapes
            if kernels_enabled("grid_noise"):
                if device.type == "cpu":
                    self.kernel = self._checked_kernel(table)
                else:
                    self.draw_grid = compiled_draw(noise_of_rows)
        elif not self.none:
            self.gaussian = GaussianNoise(self.pixels, device)

    def pixels_of(self, images: list[Image]) -> Tensor:
        """The images on the device, [S, P]: int16 steps of 1/255 for grid noise, float32 in [0, 1] for float noise.

        Raises:
            BadImageError: a floating-point image off the 1/255 grid is to get grid noise.
        """
        rows: list[np.ndarray] = []
        for image in images:
            values_P = to_array(image).transpose(1, 2, 0).reshape(-1)
            if self.grid:
                if image.dtype != "uint8":
                    raise BadImageError(
                        "Grid noise needs 8-bit pixels: send uint8 or multiples of 1/255, or use noise='float'."
                    )
                rows.append(values_P.astype(np.int16))
            else:
                unit = np.float32(_STEPS) if image.dtype == "uint8" else np.float32(1)
                rows.append(values_P.astype(np.float32) / unit)
        return torch.from_numpy(np.stack(rows)).to(self.device)

    def add_noise(self, pixels_SP: Tensor, image_of_row_R: Tensor, rows_R5: Tensor) -> Tensor:
        """Encoded noisy images x_BCHW in channels_last order."""
        if self.kernel is not None:
            encoded_RP = torch.empty(len(rows_R5), self.pixels, dtype=self.dtype)
            self.kernel.add_noise(rows_R5, pixels_SP, image_of_row_R, self.scale_P, self.shift_P, encoded_RP)
        else:
            encoded_RP = self._plain(pixels_SP, image_of_row_R, rows_R5)
        return encoded_RP.view(-1, self.height, self.width, self.channels).permute(0, 3, 1, 2)

    def _checked_kernel(self, table: NoiseTable) -> "GridNoiseKernel | None":
        """The kernel, if its bits are those of the torch operations on a few rows."""
        from spacte_core.kernels import grid_noise_kernel

        kernel = grid_noise_kernel(table.value, table.other, table.threshold, table.first_shared)
        if kernel is None:
            return None
        rows_R5 = torch.arange(_CHECKED_ROWS * ROW_WORDS).view(_CHECKED_ROWS, ROW_WORDS) * 0x1234567 & 0xFFFFFFFF
        pixels_SP = (torch.arange(self.pixels) % (_STEPS + 1)).to(torch.int16).unsqueeze(0)
        image_of_row_R = torch.zeros(_CHECKED_ROWS, dtype=torch.int64)
        found_RP = torch.empty(_CHECKED_ROWS, self.pixels, dtype=self.dtype)
        kernel.add_noise(rows_R5, pixels_SP, image_of_row_R, self.scale_P, self.shift_P, found_RP)
        return kernel if torch.equal(found_RP, self._plain(pixels_SP, image_of_row_R, rows_R5)) else None

    def _plain(self, pixels_SP: Tensor, image_of_row_R: Tensor, rows_R5: Tensor) -> Tensor:
        """Encoded noisy rows [R, P] by torch operations."""
        x_RP = pixels_SP if len(pixels_SP) == 1 else pixels_SP[image_of_row_R]
        if self.grid:
            x_RP = (self.draw_grid(rows_R5) + x_RP).to(torch.float32)
        elif not self.none:
            x_RP = x_RP + self.gaussian.draw(rows_R5) * self.sigma
        y_RP = (x_RP * self.scale_P).add_(self.shift_P)
        return (y_RP.clamp_(0, 255) if self.dtype == torch.uint8 else y_RP).to(self.dtype)
