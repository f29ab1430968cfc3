"""The grid noise kernel for CPUs: compiled once with the machine's own C++ compiler, or not there.

The kernel (`grid_noise_kernel.cpp`) computes exactly what `grid.py` does, bit for bit; where no compiler is
found, or the compiled kernel's bits are not the same, the torch operations do the work.
"""

import ctypes
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spacte_core.kernels.compiler import compiled

_SOURCE = Path(__file__).with_name("grid_noise_kernel.cpp")
_KINDS = {torch.int16: 0, torch.float32: 1, torch.bfloat16: 2, torch.uint8: 3}


class NoiseTable(Protocol):
    """What the kernel reads of a noise table: three arrays of 16-bit columns, and the first column shared by two."""

    @property
    def value(self) -> NDArray[np.int16]: ...
    @property
    def other(self) -> NDArray[np.int16]: ...
    @property
    def threshold(self) -> NDArray[np.uint64]: ...
    @property
    def first_shared(self) -> int: ...


class _Table(ctypes.Structure):
    _fields_ = (
        ("value", ctypes.c_void_p),
        ("other", ctypes.c_void_p),
        ("threshold", ctypes.c_void_p),
        ("first_shared", ctypes.c_int64),
    )


class GridNoiseKernel:
    """The kernel bound to one noise table.

    Args:
        table: the law of a pixel's noise; its arrays are read in place and kept alive here.
    """

    def __init__(self, table: NoiseTable, library: ctypes.CDLL) -> None:
        self._kept = table
        self._table = _Table(
            table.value.ctypes.data, table.other.ctypes.data, table.threshold.ctypes.data, table.first_shared
        )
        self._kernel = library.spacte_grid_noise
        self._kernel.restype = None

    def noisy(
        self,
        rows_R5: Tensor,
        pixels_UP: Tensor,
        image_of_row_R: Tensor,
        scale_P: Tensor,
        shift_P: Tensor,
        out_RP: Tensor,
    ) -> Tensor:
        """Noise added to the rows' images, scaled and shifted into `out_RP`, which is returned.

        Args:
            rows_R5: int64 row names.
            pixels_UP: int16 pixels in steps of 1/255.
            image_of_row_R: int64, which image each row is of.
            scale_P, shift_P: float32; not used where `out_RP` is int16.
            out_RP: int16 (the noisy pixels themselves), float32, bfloat16 or uint8.
        """
        rows, pixels = out_RP.shape
        tensors = (rows_R5, pixels_UP, image_of_row_R, scale_P, shift_P, out_RP)
        if not all(t.is_contiguous() and t.device.type == "cpu" for t in tensors):
            raise ValueError("the kernel reads contiguous CPU tensors only")
        self._kernel(
            ctypes.c_void_p(rows_R5.data_ptr()),
            ctypes.c_int64(rows),
            ctypes.c_int64(pixels),
            ctypes.byref(self._table),
            ctypes.c_void_p(pixels_UP.data_ptr()),
            ctypes.c_void_p(image_of_row_R.data_ptr()),
            ctypes.c_void_p(scale_P.data_ptr()),
            ctypes.c_void_p(shift_P.data_ptr()),
            ctypes.c_int32(_KINDS[out_RP.dtype]),
            ctypes.c_void_p(out_RP.data_ptr()),
            ctypes.c_int64(torch.get_num_threads()),
        )
        return out_RP


def library() -> ctypes.CDLL | None:
    """The compiled kernel, for several threads where the compiler has OpenMP; None where there is no compiler."""
    return compiled(_SOURCE, "-ffp-contract=off", "-fopenmp") or compiled(_SOURCE, "-ffp-contract=off")
