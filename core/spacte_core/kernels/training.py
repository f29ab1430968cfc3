"""The pass that gives a training network our kernels, layer by layer; what they do not fit stays PyTorch's."""

import torch
from torch import fx, nn

from spacte_core.hardware import has_triton
from spacte_core.kernel_switch import kernels_enabled
from spacte_core.models import MultiHeadNet
from spacte_core.models.sharing import shared_copy

from .cpu.batch_norm import fused_batch_norms


def optimize_for_training(net: MultiHeadNet, device: torch.device) -> MultiHeadNet:
    """A network over the same weights whose layers run in our kernels.

    On CPUs a batch normalisation takes the sum and the ReLU that follow it along; on GPUs narrow convolutions run in
    Triton, and heads run together where a CUDA graph is captured.
    """
    twin = shared_copy(net)
    parts = [part for part in twin.modules() if type(part) is MultiHeadNet]
    if device.type == "cuda":
        if kernels_enabled("triton_conv") and has_triton():
            from .gpu.narrow_conv import narrow_convolutions

            narrow_convolutions(twin)
        if kernels_enabled("parallel_heads"):
            from .gpu.parallel_heads import ParallelHeadsNet

            for part in parts:
                part.__class__ = ParallelHeadsNet
    elif kernels_enabled("batch_norm"):
        for part in parts:
            part.backbone = _traced(part.backbone)
            part.heads = nn.ModuleList(_traced(head) for head in part.heads)
    return twin


def _traced(part: nn.Module) -> nn.Module:
    """The part as a graph with fused batch normalisations; as it is where its code cannot be traced."""
    try:
        graph = fx.symbolic_trace(part)
    except Exception:  # noqa: BLE001  the part's own code fails in any way it likes on symbolic values
        return part
    return fused_batch_norms(graph)
