"""The noise step: named rows and pixels in, encoded noisy images of a fixed batch shape out.

Shape suffixes: U images, R rows of the batch, P pixels in the order height, width, channel; B = R in x_BCHW.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from spacte_core.forms import Encoding
from spacte_core.kernel_switch import kernels_enabled
from spacte_workers.images import BadImageError, to_array
from spacte_workers.noise.compiled import fused_noise
from spacte_workers.noise.gaussian import GaussianNoise
from spacte_workers.noise.grid import GridNoise
from spacte_workers.noise.philox import ROW_WORDS
from spacte_workers.noise.table import noise_table
from spacte_workers.shards import Image, NoiseSource

if TYPE_CHECKING:
    from spacte_core.kernels.cpu.grid_noise import GridNoiseKernel

_STEPS = 255
_CHECKED_ROWS = 3


class NoiseStep:
    """Adds noise of one kind and level to images of one shape, without clipping, and encodes the sum.

    For grid noise the sum is an integer, and only that integer goes on: nothing of the image's own value
    can be read from rounding errors.

    Args:
        source: gives the kind (`grid` or `float`) and sigma; its seed is not used here.
        input_shape: (C, H, W).
        encoding: what the trunk wants.
        device: where the noise is made.
        use_kernel: whether the compiled kernel may be used; it gives the same bits.
    """

    def __init__(
        self,
        source: NoiseSource,
        input_shape: tuple[int, int, int],
        encoding: Encoding,
        device: torch.device,
        *,
        use_kernel: bool = True,
    ) -> None:
        self.channels, self.height, self.width = input_shape
        self.pixels = self.channels * self.height * self.width
        self.sigma = source.sigma
        self.dtype = encoding.dtype
        self.device = device
        self.grid = source.noise == "grid"
        self.kernel: GridNoiseKernel | None = None
        steps = _STEPS if self.grid else 1
        rounding = 0.5 if self.dtype == torch.uint8 else 0.0
        places = self.height * self.width
        scale_C = torch.tensor(encoding.scale_C, dtype=torch.float64) / steps
        shift_C = torch.tensor(encoding.shift_C, dtype=torch.float64) + rounding
        self.scale_P = scale_C.float().repeat(places).to(device)
        self.shift_P = shift_C.float().repeat(places).to(device)
        if self.grid:
            table = noise_table(source.sigma)
            noise = GridNoise(table, self.pixels, device)
            self.draw_grid = noise.draw if device.type == "cpu" else fused_noise(noise)
            if use_kernel and device.type == "cpu" and kernels_enabled("grid_noise"):
                from spacte_core.kernels import grid_noise_kernel

                self.kernel = self._checked(
                    grid_noise_kernel(table.value, table.other, table.threshold, table.first_shared)
                )
        else:
            self.gaussian = GaussianNoise(self.pixels, device)

    def pixels_of(self, images: list[Image]) -> Tensor:
        """The images on the device, [U, P]: int16 steps of 1/255 for grid noise, float32 in [0, 1] for
        float noise.

        Raises:
            BadImageError: a floating-point image off the 1/255 grid is to get grid noise.
        """
        rows: list[np.ndarray] = []
        for image in images:
            values_HWC = to_array(image).transpose(1, 2, 0)
            if self.grid:
                if image.dtype != "uint8":
                    raise BadImageError(
                        "Grid noise needs 8-bit pixels: send uint8 or multiples of 1/255, or use noise='float'."
                    )
                rows.append(values_HWC.astype(np.int16).reshape(-1))
            else:
                scale = np.float32(_STEPS) if image.dtype == "uint8" else np.float32(1)
                rows.append((values_HWC.astype(np.float32) / scale).reshape(-1))
        return torch.from_numpy(np.stack(rows)).to(self.device)

    def noisy(self, pixels_UP: Tensor, image_of_row_R: Tensor, rows_R5: Tensor) -> Tensor:
        """Encoded noisy images x_BCHW in channels_last order."""
        if self.kernel is not None:
            encoded_RP = torch.empty(len(rows_R5), self.pixels, dtype=self.dtype)
            self.kernel.add_noise(rows_R5, pixels_UP, image_of_row_R, self.scale_P, self.shift_P, encoded_RP)
        else:
            encoded_RP = self._encode(self._sum(pixels_UP, image_of_row_R, rows_R5))
        return encoded_RP.view(-1, self.height, self.width, self.channels).permute(0, 3, 1, 2)

    def _checked(self, kernel: "GridNoiseKernel | None") -> "GridNoiseKernel | None":
        """The kernel, if its bits are those of the torch operations on a few rows."""
        if kernel is None:
            return None
        rows_R5 = torch.arange(_CHECKED_ROWS * ROW_WORDS).view(_CHECKED_ROWS, ROW_WORDS) * 0x1234567 & 0xFFFFFFFF
        pixels_UP = (torch.arange(self.pixels) % (_STEPS + 1)).to(torch.int16).unsqueeze(0)
        image_of_row_R = torch.zeros(_CHECKED_ROWS, dtype=torch.int64)
        made = torch.empty(_CHECKED_ROWS, self.pixels, dtype=self.dtype)
        kernel.add_noise(rows_R5, pixels_UP, image_of_row_R, self.scale_P, self.shift_P, made)
        same = torch.equal(made, self._encode(self._sum(pixels_UP, image_of_row_R, rows_R5)))
        return kernel if same else None

    def _sum(self, pixels_UP: Tensor, image_of_row_R: Tensor, rows_R5: Tensor) -> Tensor:
        base_RP = pixels_UP if len(pixels_UP) == 1 else pixels_UP[image_of_row_R]
        if self.grid:
            return (self.draw_grid(rows_R5) + base_RP).to(torch.float32)
        return base_RP + self.gaussian.draw(rows_R5) * self.sigma

    def _encode(self, x_RP: Tensor) -> Tensor:
        y_RP = (x_RP * self.scale_P).add_(self.shift_P)
        if self.dtype == torch.uint8:
            y_RP.clamp_(0, 255)
        return y_RP.to(self.dtype)
