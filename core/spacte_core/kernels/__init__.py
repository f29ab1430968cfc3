"""The room of kernels: everything that is fast and strange, behind one pass. README.md lists what is in it.

`optimize(net, device)` returns a training network that computes the same with our kernels; `optimized_forms(...)` does
so for a base classifier that votes; `grid_noise(table)` gives the noise step's kernel. Each leaves what it cannot
improve as it is, so that the result works everywhere. Nothing heavy is imported before one of them is called.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from spacte_core.classifier import Classifier
    from spacte_core.forms import Form
    from spacte_core.models import MultiHeadNet

    from .cpu.grid_noise import GridNoiseKernel, NoiseTable

__all__ = ["grid_noise", "optimize", "optimized_forms"]


def optimize(net: "MultiHeadNet", device: "torch.device") -> "MultiHeadNet":
    """The network as training runs it: the same parameters and buffers, the same results, fewer passes over memory.

    Args:
        net: on `device`. Its state dict, parameters and their order stay as they are; training the result trains it.
        device: where it trains.
    """
    from .training import optimize_for_training

    return optimize_for_training(net, device)


def optimized_forms(
    classifier: "Classifier", precision: str, batch: int, rows_NCHW: "Tensor", *, only: str | None = None
) -> "Iterator[Form]":
    """Forms of a base classifier that votes, fastest first; see `inference.optimized_forms`."""
    from .inference import optimized_forms as forms

    return forms(classifier, precision, batch, rows_NCHW, only=only)


def grid_noise(table: "NoiseTable") -> "GridNoiseKernel | None":
    """The kernel that adds grid noise to images on a CPU; None where it cannot be compiled."""
    from .cpu.grid_noise import GridNoiseKernel, library

    compiled = library()
    return None if compiled is None else GridNoiseKernel(table, compiled)
