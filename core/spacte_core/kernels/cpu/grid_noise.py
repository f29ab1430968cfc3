"""Grid noise on CPUs: `grid_noise_kernel.cpp` computes what the torch operations of `GridNoise` do, bit for bit."""

import ctypes
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spacte_core.kernels.compiler import call, compile_library

SOURCE = Path(__file__).with_name("grid_noise_kernel.cpp")
OPTIONS = ("-ffp-contract=off",)
_RESULT_TYPES = {torch.int16: 0, torch.float32: 1, torch.bfloat16: 2, torch.uint8: 3}  # the kernel's numbers of them


class _Table(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("value", "other", "threshold")),
        ("first_shared", ctypes.c_int64),
    )


class GridNoiseKernel:
    """The kernel bound to one noise table.

    Args:
        value, other, threshold, first_shared: of the table; arrays are read in place and kept alive here.
        library: the compiled kernel.
    """

    def __init__(
        self,
        value: NDArray[np.int16],
        other: NDArray[np.int16],
        threshold: NDArray[np.uint64],
        first_shared: int,
        library: ctypes.CDLL,
    ) -> None:
        self._kept = (value, other, threshold)
        self._table = _Table(*(array.ctypes.data for array in self._kept), first_shared)
        self._kernel = library.spacte_grid_noise
        self._kernel.restype = None

    def add_noise(
        self,
        rows_R5: Tensor,
        pixels_UP: Tensor,
        image_of_row_R: Tensor,
        scale_P: Tensor,
        shift_P: Tensor,
        out_RP: Tensor,
    ) -> Tensor:
        """Noise added to the rows' images, scaled and shifted into `out_RP`, which is returned.

        All tensors are contiguous and on the CPU.

        Args:
            rows_R5: int64 row names.
            pixels_UP: int16 pixels in steps of 1/255.
            image_of_row_R: int64, which image each row is of.
            scale_P, shift_P: float32; not used where `out_RP` is int16.
            out_RP: int16 (the noisy pixels themselves), float32, bfloat16 or uint8.
        """
        rows, pixels = out_RP.shape
        encoding = (scale_P, shift_P, _RESULT_TYPES[out_RP.dtype], out_RP)
        images = (ctypes.byref(self._table), pixels_UP, image_of_row_R)
        call(self._kernel, rows_R5, rows, pixels, *images, *encoding, torch.get_num_threads())
        return out_RP


def grid_noise_kernel(
    value: NDArray[np.int16], other: NDArray[np.int16], threshold: NDArray[np.uint64], first_shared: int
) -> GridNoiseKernel | None:
    """The kernel for a noise table, on several threads where the compiler has OpenMP; None where none compiles."""
    library = compile_library(SOURCE, *OPTIONS, "-fopenmp") or compile_library(SOURCE, *OPTIONS)
    return None if library is None else GridNoiseKernel(value, other, threshold, first_shared, library)
