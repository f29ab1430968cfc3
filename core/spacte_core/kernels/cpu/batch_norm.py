"""Batch normalisation with a following sum and ReLU in one step, where gradients are needed and a CPU computes them.

PyTorch's own three operations read and write every map nine times in a training step; `batch_norm_kernel.cpp` does it
in five. Statistics, sums and the gradients of weight and bias are in float32 whatever the maps are in.
"""

import ctypes
import math
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from spacte_core.kernels.compiler import call, compile_library
from spacte_core.kernels.graph.folding import add_layer, is_add, is_relu, layer_of, recompile

SOURCE = Path(__file__).with_name("batch_norm_kernel.cpp")
OPTIONS = ("-march=native", "-fopenmp")

_TILE = 64
"""Values of a tile are a multiple of it, and of the channels: as in the kernel."""

_SMALL = 8192
"""Values of a tile that is never too large. Chosen: 32 KB of float32."""


class FusedBatchNorm(nn.Module):
    """A batch normalisation with the sum and the ReLU that follow it, over the weights of the layer it replaces."""

    def __init__(self, norm: nn.BatchNorm2d, *, relu: bool) -> None:
        super().__init__()
        self.norm = norm
        self.relu = relu

    def forward(self, x_BCHW: Tensor, plus_BCHW: Tensor | None = None) -> Tensor:
        """relu?( norm(x) + plus? )."""
        return fused_batch_norm(self.norm, x_BCHW, plus_BCHW, relu=self.relu)


def fuse_batch_norms(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Let each batch normalisation include a following sum and ReLU, where nothing else reads what lies between.

    Changes its argument. Parameters keep their order.
    """
    calls = [str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"]
    for node in list(graph_module.graph.nodes):
        norm = layer_of(graph_module, node)
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        steps, inputs = [node], [node.args[0]]
        following = _only_user(node)
        if following is not None and is_add(following) and following.args[0] is not following.args[1]:
            steps.append(following)
            inputs.append(following.args[following.args[0] is node])
            following = _only_user(following)
        relu = following is not None and is_relu(graph_module, following)
        if following is not None and relu:
            steps.append(following)
        name, fused = str(node.target), FusedBatchNorm(norm, relu=relu)
        if calls.count(name) > 1:
            name = add_layer(graph_module, name, fused)
        else:
            graph_module.set_submodule(name, fused)
        with graph_module.graph.inserting_before(steps[-1]):
            steps[-1].replace_all_uses_with(graph_module.graph.call_module(name, tuple(inputs)))
        for step in reversed(steps):
            graph_module.graph.erase_node(step)
    return recompile(graph_module)


def fused_batch_norm(
    norm: nn.BatchNorm2d, x_BCHW: Tensor, plus_BCHW: Tensor | None = None, *, relu: bool = True
) -> Tensor:
    """relu?( norm(x) + plus? ), by the kernel where it fits and else by PyTorch's operations.

    Args:
        norm: in train mode it takes the statistics of x and updates its own, in eval mode it uses its own.
        x_BCHW: maps.
        plus_BCHW: a shortcut of the same shape; None: nothing is added.
        relu: whether the result passes a ReLU.
    """
    if fits(norm, x_BCHW, plus_BCHW):
        return (_by_batch if norm.training else _by_constants)(norm, x_BCHW, plus_BCHW, relu)
    y = norm(x_BCHW)
    if plus_BCHW is not None:
        y = y + plus_BCHW
    return nn.functional.relu(y, inplace=True) if relu else y


def fits(norm: nn.BatchNorm2d, x_BCHW: Tensor, plus_BCHW: Tensor | None) -> bool:
    """Whether the kernel computes this step: a gradient is wanted, on a CPU, in a layout and type that it knows."""
    if torch.compiler.is_compiling():  # the compiler fuses PyTorch's own operations
        return False
    if type(norm) is not nn.BatchNorm2d or norm.momentum is None or not (norm.affine and norm.track_running_stats):
        return False
    channels = norm.num_features
    return (
        torch.is_grad_enabled()
        and norm.weight.dtype == torch.float32
        and (norm.training or not norm.weight.requires_grad)
        and x_BCHW.numel() > channels
        and _worth_tiles(channels, x_BCHW.numel())
        and all(_known(map_BCHW, x_BCHW) for map_BCHW in (x_BCHW, plus_BCHW) if map_BCHW is not None)
        and compile_library(SOURCE, *OPTIONS) is not None
    )


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _worth_tiles(channels: int, values: int) -> bool:
    """Whether the kernel's tile, of which it keeps several, is small beside a map: 1,001 channels fill 64,064."""
    return math.lcm(channels, _TILE) <= max(_SMALL, values // 16)


def _known(map_BCHW: Tensor, like_BCHW: Tensor) -> bool:
    return (
        map_BCHW.device.type == "cpu"
        and map_BCHW.dtype in (torch.float32, torch.bfloat16)
        and (map_BCHW.dtype, map_BCHW.shape) == (like_BCHW.dtype, like_BCHW.shape)
        and map_BCHW.is_contiguous(memory_format=torch.channels_last)
    )


def _by_batch(norm: nn.BatchNorm2d, x_BCHW: Tensor, plus_BCHW: Tensor | None, relu: bool) -> Tensor:
    inputs = (x_BCHW, plus_BCHW, norm.weight, norm.bias, norm.eps, relu)
    y_BCHW, mean_C, var_C = cast("tuple[Tensor, Tensor, Tensor]", BatchStatistics.apply(*inputs))
    count = x_BCHW.numel() // norm.num_features
    rate = cast("float", norm.momentum)
    with torch.no_grad():
        cast("Tensor", norm.running_mean).lerp_(mean_C, rate)
        cast("Tensor", norm.running_var).lerp_(var_C * (count / (count - 1)), rate)
        cast("Tensor", norm.num_batches_tracked).add_(1)
    return y_BCHW


def _by_constants(norm: nn.BatchNorm2d, x_BCHW: Tensor, plus_BCHW: Tensor | None, relu: bool) -> Tensor:
    mean_C, var_C = cast("Tensor", norm.running_mean), cast("Tensor", norm.running_var)
    scale_C = norm.weight * (var_C + norm.eps).rsqrt()
    return cast("Tensor", Affine.apply(x_BCHW, plus_BCHW, scale_C, norm.bias - mean_C * scale_C, relu))


class BatchStatistics(torch.autograd.Function):
    """relu?( weight (x - mean) / sqrt(var + eps) + bias + plus? ) with mean and (biased) var of x, returned as well."""

    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, plus_BCHW: Tensor | None, weight_C: Tensor, bias_C: Tensor, eps: float, relu: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean_C, var_C, rstd_C = (torch.empty_like(weight_C) for _ in range(3))
        _run("statistics", x_BCHW, x_BCHW, ctypes.c_float(eps), mean_C, var_C, rstd_C)
        scale_C = weight_C * rstd_C
        shift_C = bias_C - mean_C * scale_C
        y_BCHW = torch.empty_like(x_BCHW)
        _run("apply", x_BCHW, x_BCHW, plus_BCHW, relu, scale_C, shift_C, y_BCHW)
        ctx.eps, ctx.plus = eps, plus_BCHW is not None
        ctx.gate = 0 if not relu else 1 if ctx.plus else 2  # of the kernel
        by_channel = (weight_C, bias_C, mean_C, rstd_C, scale_C, shift_C)
        ctx.save_for_backward(x_BCHW, *by_channel, *([y_BCHW] if ctx.gate == 1 else []))
        ctx.mark_non_differentiable(mean_C, var_C)
        return y_BCHW, mean_C, var_C

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_BCHW, weight_C, bias_C, mean_C, rstd_C, scale_C, shift_C, *ys = ctx.saved_tensors
        y_BCHW = ys[0] if ys else None
        if torch.is_grad_enabled():  # this gradient is differentiated in turn
            again = nn.functional.batch_norm(x_BCHW, None, None, weight_C, bias_C, training=True, eps=ctx.eps)
            g_BCHW = _through_relu(gradients[0], again.detach() if ctx.gate == 2 else y_BCHW)
            d_x, d_weight, d_bias = torch.autograd.grad(again, (x_BCHW, weight_C, bias_C), g_BCHW, create_graph=True)
            return d_x, g_BCHW if ctx.plus else None, d_weight, d_bias, None, None
        dy_BCHW = gradients[0].contiguous(memory_format=torch.channels_last)
        dx_BCHW, d_weight_C, d_bias_C = map(torch.empty_like, (x_BCHW, weight_C, bias_C))
        d_plus_BCHW = torch.empty_like(x_BCHW) if ctx.plus else None
        inputs = (dy_BCHW, x_BCHW, ctx.gate, y_BCHW, scale_C, shift_C, weight_C, mean_C, rstd_C)
        _run("backward", x_BCHW, *inputs, dx_BCHW, d_plus_BCHW, d_weight_C, d_bias_C)
        return dx_BCHW, d_plus_BCHW, d_weight_C, d_bias_C, None, None


class Affine(torch.autograd.Function):
    """relu?( scale x + shift + plus? ), for constant scale and shift."""

    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, plus_BCHW: Tensor | None, scale_C: Tensor, shift_C: Tensor, relu: bool
    ) -> Tensor:
        y_BCHW = torch.empty_like(x_BCHW)
        _run("apply", x_BCHW, x_BCHW, plus_BCHW, relu, scale_C, shift_C, y_BCHW)
        ctx.save_for_backward(scale_C, *([y_BCHW] if relu else []))
        ctx.plus = plus_BCHW is not None
        return y_BCHW

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scale_C, *ys = ctx.saved_tensors
        y_BCHW = ys[0] if ys else None
        if torch.is_grad_enabled():
            g_BCHW = _through_relu(gradients[0], y_BCHW)
            return g_BCHW * scale_C[:, None, None], g_BCHW if ctx.plus else None, None, None, None
        dy_BCHW = gradients[0].contiguous(memory_format=torch.channels_last)
        dx_BCHW = torch.empty_like(dy_BCHW)
        d_plus_BCHW = torch.empty_like(dy_BCHW) if ctx.plus else None
        _run("backward_constant", dy_BCHW, dy_BCHW, y_BCHW, scale_C, dx_BCHW, d_plus_BCHW)
        return dx_BCHW, d_plus_BCHW, None, None, None


def _through_relu(dy_BCHW: Tensor, y_BCHW: Tensor | None) -> Tensor:
    return dy_BCHW if y_BCHW is None else dy_BCHW * (y_BCHW > 0)


def _run(function: str, map_BCHW: Tensor, *arguments: Any) -> None:
    """Call a function of the kernel on maps like `map_BCHW`."""
    kernel = cast("ctypes.CDLL", compile_library(SOURCE, *OPTIONS))  # `fits` has made sure
    channels, half = map_BCHW.shape[1], map_BCHW.dtype == torch.bfloat16
    maps = (half, map_BCHW.numel() // channels, channels, torch.get_num_threads())
    call(getattr(kernel, f"spacte_norm_{function}"), *maps, *arguments)
