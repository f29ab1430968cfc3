"""Kernels in C++ for CPUs, compiled at first use; without a compiler PyTorch's own operations do the work."""
