"""The pass that gives a training network our kernels, layer by layer; what they do not fit stays PyTorch's."""

from typing import cast

import torch
from torch import fx, nn

from spacte_core.hardware import has_triton
from spacte_core.kernel_switch import kernels_enabled
from spacte_core.models import MultiHeadNet
from spacte_core.models.multihead import shared_copy

from .cpu.batch_norm import fuse_batch_norms
from .cpu.max_pool import max_pools
from .cpu.strided_training import strided_convolutions
from .cpu.winograd_training import winograd_convolutions
from .graph.tracing import symbolic_trace


def optimize(net: MultiHeadNet, device: torch.device) -> MultiHeadNet:
    """The network as training runs it: the same parameters and buffers, the same results, fewer passes over memory.

    On CPUs a batch normalisation includes the sum and the ReLU that follow it, 3 x 3 convolutions are computed by
    Winograd's products, and those with a stride of two and max poolings have their gradients from kernels. On GPUs
    narrow convolutions run in Triton, and heads run side by side while a CUDA graph is captured.

    Args:
        net: on `device`. It stays plain, and so does its state dict; training the result trains it.
        device: where it trains.
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
    else:
        for part in parts:
            part.backbone = _on_cpu(part.backbone)
            part.heads = nn.ModuleList(map(_on_cpu, part.heads))
    return twin


def _on_cpu(part: nn.Module) -> nn.Module:
    """The part as a graph of which our kernels compute what they know; as it is where its code cannot be traced."""
    replacements = {
        "batch_norm": fuse_batch_norms,
        "winograd": winograd_convolutions,
        "strided": strided_convolutions,
        "max_pool": max_pools,
    }
    wanted = [replace for name, replace in replacements.items() if kernels_enabled(name)]
    try:
        graph = symbolic_trace(part) if wanted else None
    except Exception:  # noqa: BLE001  the part's own code fails in any way it likes on symbolic values
        return part
    for replace in wanted:
        graph = replace(cast("fx.GraphModule", graph))
    return graph or part
