"""Convolutions whose tiles, blocks and panels come out in every way that Winograd's training kernel knows."""

import torch
from tests.convolution_gradients import Gradients, gradients
from torch import Tensor

from spacte_core.kernels.cpu.winograd_training import Convolution

SHAPES = {  # [B, C, H, W] and channels out
    "whole tiles": ((3, 16, 8, 8), 16),
    "channels that fill no panel": ((2, 24, 9, 9), 40),
    "tiles that are cut off": ((3, 64, 15, 13), 24),
    "more images than a block": ((70, 16, 7, 7), 16),
    "more lines than a block": ((1, 16, 61, 33), 16),
    "one pixel": ((2, 16, 1, 1), 32),
    "wider than a block": ((1, 16, 5, 201), 16),
    "wide": ((2, 256, 7, 7), 256),
}


def case(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Maps and weights that want gradients, and the gradient of the result."""
    shape, out = SHAPES[name]
    generator = torch.Generator().manual_seed(0)
    x_BCHW = torch.randn(shape, generator=generator).to(memory_format=torch.channels_last)
    weight = torch.randn(out, shape[1], 3, 3, generator=generator) / (3 * shape[1] ** 0.5)
    dy = torch.randn(shape[0], out, *shape[2:], generator=generator)
    return x_BCHW.requires_grad_(), weight.requires_grad_(), dy


def found(x: Tensor, weight: Tensor, dy: Tensor) -> Gradients:
    """Result and both gradients, by the kernel."""
    return gradients(Convolution, x, weight, dy)


def a_missing_number_stays_in_its_image(x: Tensor, weight: Tensor, dy: Tensor) -> None:
    """Asserts that what is no number reaches neither other images nor gradients of maps."""
    with torch.no_grad():
        x[1, 5, 2, 2] = torch.nan
    y, dx, _ = found(x, weight, dy)
    assert y[1].isnan().any()
    assert not y[[0, 2]].isnan().any()
    assert not dx.isnan().any()


def unwanted_gradients_are_left_out(x: Tensor, weight: Tensor, dy: Tensor) -> None:
    """Asserts that each gradient alone is what it is beside the other."""
    _, dx, d_weight = found(x, weight, dy)
    (only_x,) = torch.autograd.grad(Convolution.apply(x, weight.detach()), x, dy)
    (only_weight,) = torch.autograd.grad(Convolution.apply(x.detach(), weight), weight, dy)
    assert torch.equal(only_x, dx)
    assert torch.equal(only_weight, d_weight)
