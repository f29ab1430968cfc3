"""Kernels and graph passes: everything that computes the same as plain PyTorch, only faster. README.md lists them.

A pass leaves what it cannot improve as it is, so that its result works everywhere.
"""

from .cpu.grid_noise import grid_noise_kernel
from .inference import optimized_forms
from .training import optimize

__all__ = ["grid_noise_kernel", "optimize", "optimized_forms"]
