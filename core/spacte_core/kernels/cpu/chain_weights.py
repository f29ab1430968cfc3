"""Weights of convolutions in the order in which the kernels of chains read them."""

import torch
from torch import Tensor
from torch.nn import functional

LANES, LINE = 16, 64
"""A tile (Intel's manual, "AMX"): rows, each of which is another image, and float32 values of a row; bytes of a row."""

_FOUR, _FOUR_IN_PAIRS, _TWO_WIDE = range(3)  # of the kernel for matrix units: the four tiles of a block of sums
_FILTERS = 4  # of the kernel for vector units: filters of a block


def tiles(weight_OIKK: Tensor, stride: int) -> tuple[Tensor, int]:
    """Weights in the order of the matrix units' tiles, and the shape of the kernel's blocks.

    A filter's line is the channels of its columns one after the other, filled up with zeros to chunks of 64 bytes; a
    tile is a chunk for 16 channels, [16][16 channels][4 bytes]. Blocks of two tiles have them by pairs: of 32 channels,
    or of 16 and the same again a pixel further to the right.
    """
    channels, inputs, kernel, _ = weight_OIKK.shape
    chunk, unit = LINE // weight_OIKK.itemsize, 4 // weight_OIKK.itemsize
    length, along = kernel * inputs, stride * inputs
    chunks = -(-length // chunk)
    line = weight_OIKK.permute(0, 2, 3, 1).flatten(2)
    width, shape = chunks * chunk, _FOUR
    if channels % (2 * LANES) == 0:
        shape = _TWO_WIDE
    elif length + along <= width:
        shape = _FOUR_IN_PAIRS
    lines = functional.pad(line, (0, width - length))
    if shape == _FOUR_IN_PAIRS:
        lines = torch.stack([lines, lines.roll(along, -1)]).view(2, -1, LANES, kernel, width).transpose(0, 1)
    parts = lines.reshape(-1, LANES, kernel, chunks, chunk // unit, unit)
    return parts.permute(0, 2, 3, 4, 1, 5).contiguous(), shape


def cells(weight_OIKK: Tensor, unit: int) -> Tensor:
    """Weights as the blocks of vector units read them: [O / 4][K][K][cells][4 filters][unit], a cell's 4 bytes."""
    channels, inputs, kernel, _ = weight_OIKK.shape
    filled = functional.pad(weight_OIKK, (0, 0, 0, 0, 0, -inputs % unit))
    parts = filled.reshape(channels // _FILTERS, _FILTERS, -1, unit, kernel, kernel).permute(0, 4, 5, 2, 1, 3)
    return (parts.to(torch.int16) if unit * weight_OIKK.itemsize < 4 else parts).contiguous()
