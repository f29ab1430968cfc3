"""`torch.ops.spacte.convolution`: a 3x3 convolution with stride 1 and its gradients, which a compiler leaves whole."""

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from .triton_conv import Filter, convolve
from .triton_conv import weight_gradient as sum_weight_gradient


@custom_op("spacte::convolution", mutates_args=(), device_types="cuda")
def convolution(x_BCHW: Tensor, weight_OIKK: Tensor) -> Tensor:
    """conv(x) with padding kernel // 2; x in bfloat16, the weights in float32, the result in channels_last order."""
    return convolve(_in_order(x_BCHW), Filter.of(weight_OIKK))


@custom_op("spacte::convolution_input_gradient", mutates_args=(), device_types="cuda")
def input_gradient(dy_BCHW: Tensor, weight_OIKK: Tensor) -> Tensor:
    """The gradient of the input from the result's."""
    return convolve(_in_order(dy_BCHW), Filter.transposed(weight_OIKK))


@custom_op("spacte::convolution_weight_gradient", mutates_args=(), device_types="cuda")
def weight_gradient(x_BCHW: Tensor, dy_BCHW: Tensor, kernel: int) -> Tensor:
    """The gradient of the weights, float32."""
    return sum_weight_gradient(_in_order(x_BCHW), _in_order(dy_BCHW), kernel)


@convolution.register_fake
def _(x_BCHW: Tensor, weight_OIKK: Tensor) -> Tensor:
    return _maps(x_BCHW, weight_OIKK.shape[0])


@input_gradient.register_fake
def _(dy_BCHW: Tensor, weight_OIKK: Tensor) -> Tensor:
    return _maps(dy_BCHW, weight_OIKK.shape[1])


@weight_gradient.register_fake
def _(x_BCHW: Tensor, dy_BCHW: Tensor, kernel: int) -> Tensor:
    shape = (dy_BCHW.shape[1], kernel, kernel, x_BCHW.shape[1])
    return x_BCHW.new_empty(shape, dtype=torch.float32).permute(0, 3, 1, 2)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG001 - torch's signature
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dy_BCHW: Tensor) -> tuple[Tensor | None, Tensor | None]:
    x_BCHW, weight_OIKK = ctx.saved_tensors
    kernel = weight_OIKK.shape[2]
    wants_x, wants_weight = ctx.needs_input_grad
    if torch.is_grad_enabled():  # this gradient is differentiated in turn
        given = (dy_BCHW, x_BCHW, weight_OIKK.to(x_BCHW.dtype), None, (1, 1), (kernel // 2,) * 2, (1, 1))
        dx, dw, _ = torch.ops.aten.convolution_backward(*given, False, (0, 0), 1, (wants_x, wants_weight, False))
        return dx, None if dw is None else dw.to(weight_OIKK.dtype)
    dx_BCHW = input_gradient(dy_BCHW, weight_OIKK) if wants_x else None
    return dx_BCHW, weight_gradient(x_BCHW, dy_BCHW, kernel) if wants_weight else None


convolution.register_autograd(_backward, setup_context=_keep)


def _maps(x_BCHW: Tensor, channels: int) -> Tensor:
    batch, _, height, width = x_BCHW.shape
    return x_BCHW.new_empty((batch, height, width, channels)).permute(0, 3, 1, 2)


def _in_order(x_BCHW: Tensor) -> Tensor:
    return x_BCHW.contiguous(memory_format=torch.channels_last)
