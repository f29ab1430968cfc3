"""The compiled kernel of moments and of rounding in turn (`rounding_kernel.cpp`)."""

import ctypes
import platform
from functools import cache
from pathlib import Path

from spacte_core.kernels.compiler import compile_library


@cache
def rounding_kernel() -> ctypes.CDLL | None:
    """The library; None where PyTorch and NumPy do its work: no compiler, or a processor without fused products."""
    fused = () if platform.machine() == "aarch64" else ("fma",)
    source = Path(__file__).with_name("rounding_kernel.cpp")
    return compile_library(source, "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", needs=fused)
