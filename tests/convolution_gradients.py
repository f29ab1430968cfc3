"""A convolution and its gradients by a function of ours, and by PyTorch in float64."""

import torch
from torch import Tensor
from torch.nn import functional

Gradients = tuple[Tensor, Tensor, Tensor]
"""The result, the gradient of the maps and that of the weights."""


def gradients(function: type[torch.autograd.Function], x: Tensor, weight: Tensor, dy: Tensor) -> Gradients:
    """By the function."""
    return _of(function.apply(x, weight), x, weight, dy)


def exact_gradients(x: Tensor, weight: Tensor, dy: Tensor, stride: int = 1) -> Gradients:
    """In float64, with the padding that keeps the size where the stride is one."""
    x, weight = (value.detach().double().requires_grad_() for value in (x, weight))
    return _of(exact(x, weight, stride), x, weight, dy.double())


def exact(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    return functional.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2)


def second_gradients(y: object, x: Tensor, weight: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    """Those of the square of a gradient of the maps, by maps and weights; y is the convolution."""
    assert isinstance(y, Tensor)
    (dx,) = torch.autograd.grad(y.square(), x, dy.to(y.dtype), create_graph=True)
    return torch.autograd.grad(dx.square().sum(), (x, weight))


def error(value: Tensor, true: Tensor) -> float:
    """Relative, in the 2-norm."""
    return ((value - true).norm() / true.norm()).item()


def _of(y: object, x: Tensor, weight: Tensor, dy: Tensor) -> Gradients:
    assert isinstance(y, Tensor)
    dx, d_weight = torch.autograd.grad(y, (x, weight), dy)
    return y.detach(), dx, d_weight
