"""3 x 3 convolutions of 8-bit codes with a quarter of the products and the very same sums: Winograd in whole numbers.

F(4 x 4, 3 x 3) with the points 0, +-1, +-2 and infinity (Lavin and Gray 2016); `chain_winograd.h` says why words of 16
bits hold all of it, and how the sums come out exact.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

TILE, PRODUCTS = 4, 36
"""Of the kernel: the side of a tile of results, and its products."""

_BLOCK, _FILTERS = 4, 8  # of the kernel: filters whose sums are in registers, and whose products are made together
_MOST_SUM = (1 << 25) - 1  # of a convolution, either side of 0: the kernel has 64 times that in 32 bits
_LARGEST_CODE = 255
_G = torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 12]])
"""24 times Lavin and Gray's, but its last row 12 times: the kernel doubles that product."""


def fits(weight_OIKK: Tensor, stride: int) -> bool:
    """Whether the kernel gives a layer's sums, whatever codes come in.

    Args:
        weight_OIKK: int8 codes.
        stride: of the convolution.
    """
    if weight_OIKK.shape[2:] != (3, 3) or stride != 1:
        return False
    weight = weight_OIKK.long().flatten(1)
    largest = torch.maximum(weight.clamp(min=0).sum(1), -weight.clamp(max=0).sum(1)).max()
    return int(largest) * _LARGEST_CODE <= _MOST_SUM


def transform(weight_OIKK: Tensor) -> Tensor:
    """24 G g (24 G)^T, its last row and column halved: int16 [36, O, I]."""
    made_OI66 = _G @ weight_OIKK.long() @ _G.T
    return made_OI66.permute(2, 3, 0, 1).flatten(0, 1).to(torch.int16)


def cells(weight_OIKK: Tensor, unit: int) -> Tensor:
    """Transformed weights in the order of the kernel, one after the other: [O / 8][36][2][pairs][4 filters][2].

    The last of the eights may be four.

    Args:
        weight_OIKK: int8 codes.
        unit: channels of a cell. Pair i of a cell is its channels i and i + unit / 2.
    """
    channels, inputs = weight_OIKK.shape[:2]
    made = functional.pad(transform(weight_OIKK), (0, -inputs % unit))
    pairs = made.view(PRODUCTS, channels // _BLOCK, _BLOCK, -1, 2, unit // 2).transpose(-1, -2)
    blocks = pairs.flatten(3, 4).transpose(2, 3)
    return torch.cat([part.flatten() for part in _parts(blocks)])


def _parts(blocks: Tensor) -> Iterator[Tensor]:
    return iter(blocks.split(_FILTERS // _BLOCK, dim=1))
