"""3 x 3 convolutions of 8-bit codes with a quarter of the products and the very same sums: Winograd in whole numbers.

F(4 x 4, 3 x 3) with the points 0, +-1, +-2 and infinity (Lavin and Gray 2016); `chain_winograd.h` says why words of 16
bits hold all of it, and how the sums come out exact.
"""

import torch
from torch import Tensor
from torch.nn import functional

TILE, PRODUCTS = 4, 36
"""Of the kernel: the side of a tile of results, and its products."""

MOST_SUM = (1 << 25) - 1
"""Of a convolution, on either side of 0: the kernel has 64 times that in 32 bits."""

_BLOCK, _FILTERS = 4, 8  # of the kernel: filters of a step, and those that are taken together
_LARGEST_CODE = 255
_G = torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 12]])
"""24 times Lavin and Gray's; its last row only 12 times, for words to hold it. The kernel doubles what it gives."""

_INTO, _OUT_OF = 200, 220
"""What the transforms of one tile cost, for a pair of channels and for a filter, in products of a direct convolution.

Measured on an AMD EPYC (Zen 5): 187 and 201 with AVX2, 264 and 230 with AVX-512."""


def is_exact(weight_OIKK: Tensor) -> bool:
    """Whether all sums of these 3 x 3 weights (int8 codes) times codes of 0..255 lie within `MOST_SUM`."""
    weight = weight_OIKK.long().flatten(1)
    most = torch.maximum(weight.clamp(min=0).sum(1), -weight.clamp(max=0).sum(1)).max()
    return int(most) * _LARGEST_CODE <= MOST_SUM


def pays(shape: tuple[int, int, int], inputs: int, unit: int, words: float) -> bool:
    """Whether a 3 x 3 layer with stride 1 is faster this way: counted in products of a direct convolution.

    Args:
        shape: channels, height and width of the result.
        inputs: channels of the source.
        unit: channels that a product of a direct convolution takes.
        words: what a product of pairs of words costs.
    """
    channels, height, width = shape
    cells = -(-inputs // unit)
    pairs, tiles = cells * unit // 2, -(-height // TILE) * -(-width // TILE)
    here = tiles * (PRODUCTS * channels * pairs * words + _INTO * pairs + _OUT_OF * channels)
    return here < height * width * 9 * channels * cells


def transform(weight_OIKK: Tensor) -> Tensor:
    """G g G^T: int16 [36, O, I]."""
    made_OI66 = _G @ weight_OIKK.long() @ _G.T
    return made_OI66.permute(2, 3, 0, 1).flatten(0, 1).to(torch.int16)


def cells(weight_OIKK: Tensor, unit: int) -> Tensor:
    """Transformed weights as the kernel reads them: [O / 8][36][2][pairs][4 filters][2]; the last eight may be four.

    Args:
        weight_OIKK: int8 codes, O a multiple of 4.
        unit: channels of a cell. Pair i of a cell is its channels i and i + unit / 2.
    """
    channels, inputs = weight_OIKK.shape[:2]
    made = functional.pad(transform(weight_OIKK), (0, -inputs % unit))
    pairs = made.view(PRODUCTS, channels // _BLOCK, _BLOCK, -1, 2, unit // 2).transpose(-1, -2)
    blocks = pairs.flatten(3, 4).transpose(2, 3)
    return torch.cat([eight.flatten() for eight in blocks.split(_FILTERS // _BLOCK, dim=1)])
