"""Batch normalisation with a following sum and ReLU in one step, where gradients are needed and a CPU computes them.

PyTorch's own three operations read and write every map nine times in a training step; `batch_norm_kernel.cpp`
does it in five. Statistics, sums and the gradients of weight and bias are in float32 whatever the maps are in.
"""

import ctypes
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from spacte_core.kernels.compiler import compiled
from spacte_core.kernels.graph.folding import finished, is_add, is_relu, layer, own_name

SOURCE = Path(__file__).with_name("batch_norm_kernel.cpp")
OPTIONS = ("-march=native", "-fopenmp")
TILE = 64
"""Values that the kernel takes at once; the channels have to fill it or be filled by it."""


def normalized(norm: nn.BatchNorm2d, x_BCHW: Tensor, plus_BCHW: Tensor | None = None, *, relu: bool = True) -> Tensor:
    """relu( norm(x) + plus ), by the kernel where it can and else by PyTorch's operations.

    Args:
        norm: in train mode it takes the statistics of x and updates its own, in eval mode it uses its own.
        x_BCHW: maps.
        plus_BCHW: a shortcut of the same shape; None: nothing is added.
        relu: whether the result passes a ReLU.
    """
    if fits(norm, x_BCHW, plus_BCHW):
        if norm.training:
            return _trained(norm, x_BCHW, plus_BCHW, relu)
        return _frozen(norm, x_BCHW, plus_BCHW, relu)
    y = norm(x_BCHW)
    if plus_BCHW is not None:
        y = y + plus_BCHW
    return nn.functional.relu(y, inplace=True) if relu else y


class FusedBatchNorm(nn.Module):
    """A batch normalisation with the sum and the ReLU that follow it, over the weights of the layer it replaces."""

    def __init__(self, norm: nn.BatchNorm2d, *, relu: bool) -> None:
        super().__init__()
        self.norm = norm
        self.relu = relu

    def forward(self, x_BCHW: Tensor, plus_BCHW: Tensor | None = None) -> Tensor:
        """relu?( norm(x) + plus? )."""
        return normalized(self.norm, x_BCHW, plus_BCHW, relu=self.relu)


def fused_batch_norms(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Let each batch normalisation take a following sum and ReLU along, where nothing else reads what it gives.

    Changes its argument. Parameters keep their order.
    """
    for node in list(graph_module.graph.nodes):
        norm = layer(graph_module, node)
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        steps, plus = [node], None
        following = _only_user(node)
        if following is not None and is_add(following) and following.args[0] is not following.args[1]:
            steps.append(following)
            plus = following.args[following.args[0] is node]
            following = _only_user(following)
        relu = following is not None and is_relu(graph_module, following)
        if following is not None and relu:
            steps.append(following)
        name = str(node.target)
        if sum(other.target == node.target for other in graph_module.graph.nodes) > 1:  # a layer that is called twice
            name = own_name(graph_module, name)
        graph_module.set_submodule(name, FusedBatchNorm(norm, relu=relu))
        with graph_module.graph.inserting_before(steps[-1]):
            inputs = (node.args[0],) if plus is None else (node.args[0], plus)
            fused = graph_module.graph.call_module(name, inputs)
        steps[-1].replace_all_uses_with(fused)
        for step in reversed(steps):
            graph_module.graph.erase_node(step)
    return finished(graph_module)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


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
        and (channels % TILE == 0 or (TILE % channels == 0 and x_BCHW.numel() % TILE == 0))
        and all(_known(map_BCHW, x_BCHW) for map_BCHW in (x_BCHW, plus_BCHW) if map_BCHW is not None)
        and compiled(SOURCE, *OPTIONS) is not None
    )


def _known(map_BCHW: Tensor, like_BCHW: Tensor) -> bool:
    return (
        map_BCHW.device.type == "cpu"
        and map_BCHW.dtype in (torch.float32, torch.bfloat16)
        and (map_BCHW.dtype, map_BCHW.shape) == (like_BCHW.dtype, like_BCHW.shape)
        and map_BCHW.is_contiguous(memory_format=torch.channels_last)
    )


def _trained(norm: nn.BatchNorm2d, x_BCHW: Tensor, plus_BCHW: Tensor | None, relu: bool) -> Tensor:
    given = (x_BCHW, plus_BCHW, norm.weight, norm.bias, norm.eps, relu)
    y_BCHW, mean_C, var_C = cast("tuple[Tensor, Tensor, Tensor]", OwnStatistics.apply(*given))
    count = x_BCHW.numel() // norm.num_features
    rate = cast("float", norm.momentum)
    with torch.no_grad():
        cast("Tensor", norm.running_mean).lerp_(mean_C, rate)
        cast("Tensor", norm.running_var).lerp_(var_C * (count / (count - 1)), rate)
        cast("Tensor", norm.num_batches_tracked).add_(1)
    return y_BCHW


def _frozen(norm: nn.BatchNorm2d, x_BCHW: Tensor, plus_BCHW: Tensor | None, relu: bool) -> Tensor:
    mean_C, var_C = cast("Tensor", norm.running_mean), cast("Tensor", norm.running_var)
    scale_C = norm.weight * (var_C + norm.eps).rsqrt()
    shift_C = norm.bias - mean_C * scale_C
    return cast("Tensor", Constant.apply(x_BCHW, plus_BCHW, scale_C, shift_C, relu))


class OwnStatistics(torch.autograd.Function):
    """relu( weight (x - mean) / sqrt(var + eps) + bias + plus ) with mean and (biased) var of x, returned as well."""

    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, plus_BCHW: Tensor | None, weight_C: Tensor, bias_C: Tensor, eps: float, relu: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean_C, var_C, rstd_C = (torch.empty_like(weight_C) for _ in range(3))
        _call("statistics", x_BCHW, x_BCHW, ctypes.c_float(eps), mean_C, var_C, rstd_C)
        scale_C = weight_C * rstd_C
        y_BCHW = torch.empty_like(x_BCHW)
        _call("apply", x_BCHW, x_BCHW, plus_BCHW, ctypes.c_int(relu), scale_C, bias_C - mean_C * scale_C, y_BCHW)
        ctx.save_for_backward(x_BCHW, weight_C, bias_C, mean_C, rstd_C, *([y_BCHW] if relu else []))
        ctx.eps, ctx.plus = eps, plus_BCHW is not None
        ctx.mark_non_differentiable(mean_C, var_C)
        return y_BCHW, mean_C, var_C

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_BCHW, weight_C, bias_C, mean_C, rstd_C, *ys = ctx.saved_tensors
        y_BCHW = ys[0] if ys else None
        if torch.is_grad_enabled():  # somebody differentiates this gradient in turn
            g_BCHW = _through_relu(gradients[0], y_BCHW)
            again = nn.functional.batch_norm(x_BCHW, None, None, weight_C, bias_C, training=True, eps=ctx.eps)
            d_x, d_weight, d_bias = torch.autograd.grad(again, (x_BCHW, weight_C, bias_C), g_BCHW, create_graph=True)
            return d_x, g_BCHW if ctx.plus else None, d_weight, d_bias, None, None
        dy_BCHW = gradients[0].contiguous(memory_format=torch.channels_last)
        dx_BCHW, d_weight_C, d_bias_C = map(torch.empty_like, (x_BCHW, weight_C, bias_C))
        d_plus_BCHW = torch.empty_like(x_BCHW) if ctx.plus else None
        given = (dy_BCHW, x_BCHW, y_BCHW, weight_C, mean_C, rstd_C)
        _call("backward", x_BCHW, *given, dx_BCHW, d_plus_BCHW, d_weight_C, d_bias_C)
        return dx_BCHW, d_plus_BCHW, d_weight_C, d_bias_C, None, None


class Constant(torch.autograd.Function):
    """relu( scale x + shift + plus ), for constant scale and shift."""

    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, plus_BCHW: Tensor | None, scale_C: Tensor, shift_C: Tensor, relu: bool
    ) -> Tensor:
        y_BCHW = torch.empty_like(x_BCHW)
        _call("apply", x_BCHW, x_BCHW, plus_BCHW, ctypes.c_int(relu), scale_C, shift_C, y_BCHW)
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
        _call("backward_constant", dy_BCHW, dy_BCHW, y_BCHW, scale_C, dx_BCHW, d_plus_BCHW)
        return dx_BCHW, d_plus_BCHW, None, None, None


def _through_relu(dy_BCHW: Tensor, y_BCHW: Tensor | None) -> Tensor:
    return dy_BCHW if y_BCHW is None else dy_BCHW * (y_BCHW > 0)


def _call(function: str, map_BCHW: Tensor, *arguments: Tensor | ctypes.c_int | ctypes.c_float | None) -> None:
    """Call a function of the kernel on maps like `map_BCHW`; a tensor is passed as where its values lie."""
    kernel = cast("ctypes.CDLL", compiled(SOURCE, *OPTIONS))  # `fits` has seen to it
    channels = map_BCHW.shape[1]
    getattr(kernel, f"spacte_norm_{function}")(
        ctypes.c_int(map_BCHW.dtype == torch.bfloat16),
        ctypes.c_int64(map_BCHW.numel() // channels),
        ctypes.c_int64(channels),
        ctypes.c_int(torch.get_num_threads()),
        *(ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else a for a in arguments),
    )
