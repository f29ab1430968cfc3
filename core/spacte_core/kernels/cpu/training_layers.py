"""Layers of a network in training by kernels of ours: when they fit, and what a graph has in their place."""

from collections.abc import Callable
from typing import ClassVar, TypeVar, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from spacte_core.hardware import cpu_flags
from spacte_core.kernels.graph.folding import layer_of, recompile

Layer = TypeVar("Layer", bound=nn.Module)


class TrainingConv(nn.Module):
    """A convolution over the weights of the layer it replaces: by a kernel, or by that layer where none fits.

    Attributes:
        function: (maps, weights) -> the convolution by the kernel, in the type of the maps.
    """

    function: ClassVar[type[torch.autograd.Function]]

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The convolution of maps on a CPU by the kernel, and of all others by PyTorch."""
        if not self.fits(x_BCHW):
            return self.conv(x_BCHW)
        x_BCHW = x_BCHW.bfloat16() if torch.is_autocast_enabled("cpu") else x_BCHW
        return cast("Tensor", self.function.apply(x_BCHW, self.conv.weight))

    def fits(self, x_BCHW: Tensor) -> bool:
        """Whether the kernel computes this step."""
        raise NotImplementedError


def replace_layers(
    graph_module: fx.GraphModule,
    kind: type[Layer],
    known: Callable[[Layer], bool],
    replacement: Callable[[Layer], nn.Module],
) -> fx.GraphModule:
    """Let a kernel compute the layers of a kind that it knows. Changes its argument; parameters keep their order."""
    read = {str(node.target).rpartition(".")[0] for node in graph_module.graph.nodes if node.op == "get_attr"}
    for node in graph_module.graph.nodes:
        layer = layer_of(graph_module, node)
        if isinstance(layer, kind) and known(layer) and str(node.target) not in read:  # for weights keep their names
            graph_module.set_submodule(str(node.target), replacement(layer))
    return recompile(graph_module)


def learns(layer: nn.Module, x_BCHW: Tensor) -> bool:
    """Whether this is an eager step on a CPU of which a gradient is wanted, with float32 weights and no hooks.

    To be asked first: a compiler cannot follow what else is asked. What is a layer's own to do (hooks, another type or
    device) stays PyTorch's.
    """
    if torch.compiler.is_compiling() or x_BCHW.dim() != 4 or not x_BCHW.numel() or _has_hooks(layer):
        return False
    weights = list(layer.parameters())
    if any(weight.device.type != "cpu" or weight.dtype != torch.float32 for weight in weights):
        return False
    wanted = x_BCHW.requires_grad or any(weight.requires_grad for weight in weights)
    return x_BCHW.device.type == "cpu" and torch.is_grad_enabled() and wanted


def is_halved(x_BCHW: Tensor) -> bool:
    """Whether autocast has maps like these in bfloat16, on a processor whose matrix units are not the better choice."""
    types = (torch.float32, torch.bfloat16)
    halves = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return halves and x_BCHW.dtype in types and "amx_bf16" not in cpu_flags()


def _has_hooks(layer: nn.Module) -> bool:
    """Whether a call of the layer does more than its own work, such as making its weights."""
    hooks = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return any(getattr(layer, name) for name in hooks)


def differentiable_gradients(
    x_BCHW: Tensor, weight_OIHW: Tensor, dy_BCHW: Tensor, wanted: tuple[bool, ...], stride: int, padding: int
) -> tuple[Tensor | None, ...]:
    """The gradients of a convolution, by PyTorch, so that they can be differentiated in turn."""
    inputs = [value for value, needed in zip((x_BCHW, weight_OIHW), wanted, strict=True) if needed]
    again = functional.conv2d(x_BCHW, weight_OIHW.to(x_BCHW.dtype), stride=stride, padding=padding)
    found = iter(torch.autograd.grad(again, inputs, dy_BCHW, create_graph=True))
    return tuple(next(found) if needed else None for needed in wanted)


def channels_last(*maps: Tensor) -> list[Tensor]:
    """Maps as kernels read them."""
    return [cast("Tensor", of.contiguous(memory_format=torch.channels_last)) for of in maps]
