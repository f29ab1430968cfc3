"""Convolutions whose tiles, blocks and panels come out in every way that Winograd's training kernel knows."""

import torch
from torch import Tensor

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
