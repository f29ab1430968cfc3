"""3 x 3 convolutions in a chain of the vector units with a quarter of the products: Winograd's F(4 x 4, 3 x 3).

For 8-bit codes in whole numbers, with the points 0, +-1, +-2 and infinity (Lavin and Gray 2016): the sums are the very
same; `chain_winograd.h` says why words of 16 bits hold all of it. For float32 and bfloat16 maps in float32, with the
points 0, +-5/8, +-3/2 and infinity: rounding errors have about 2.5 times the standard deviation of a direct
convolution's in float32, 5e-7 of the values' own (benchmarks/results/engine_cpu.md).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

TILE, PRODUCTS = 4, 36
"""Of the kernel: the side of a tile of results, and its products."""

POINTS = (0.0, 0.625, -0.625, 1.5, -1.5)
"""Where the polynomials behind the transforms in float32 are evaluated, besides infinity; the kernel knows the same."""

MOST_SUM = (1 << 25) - 1
"""Of a convolution of codes, on either side of 0: the kernel has 64 times that in 32 bits."""

_BLOCK = 4  # of the kernel: filters of a step
_LARGEST_CODE = 255
_G = torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 12]])
"""24 times Lavin and Gray's; its last row only 12 times, for words to hold it. The kernel doubles what it gives."""

_INTO_REALS, _OUT_OF_REALS = 300, 260
"""What the transforms of a tile cost in float32, for a channel and for a filter, in direct products. Measured on an AMD
EPYC (Zen 4): 550 to 580 together."""

_FLOATS = 1.1  # what a product costs in float32: its weights are many, and brought from afar


class Costs(NamedTuple):
    """What a layer of codes costs this way, in products of a direct convolution.

    Attributes:
        words: a product of pairs of words, with what it costs to bring the many weights.
        into: the transform of one tile, for a pair of channels.
        out_of: the transform of one tile's sums, for a filter.
    """

    words: float
    into: float
    out_of: float


USUAL = Costs(1.25, 200, 220)
"""Measured on an AMD EPYC (Zen 5): words 1.25 with AVX2 and AVX-512; transforms 187 and 201 with AVX2, 264 and 230 with
AVX-512."""

INTEL_VNNI = Costs(1.5, 350, 450)
"""Of 512 bits on Intel's: the two units that multiply words have the transforms to do as well, and weights come slowly
from beyond the second-level cache. Fitted to layers of 16 to 512 channels (benchmarks/results/engine_cpu.md)."""


def is_exact(weight_OIKK: Tensor) -> bool:
    """Whether all sums of these 3 x 3 weights (int8 codes) times codes of 0..255 lie within `MOST_SUM`."""
    weight = weight_OIKK.long().flatten(1)
    most = torch.maximum(weight.clamp(min=0).sum(1), -weight.clamp(max=0).sum(1)).max()
    return int(most) * _LARGEST_CODE <= MOST_SUM


def pays(shape: tuple[int, int, int], inputs: int, unit: int, costs: Costs | None) -> bool:
    """Whether a 3 x 3 layer with stride 1 is faster this way: counted in products of a direct convolution.

    Args:
        shape: channels, height and width of the result.
        inputs: channels of the source.
        unit: channels that a product of a direct convolution takes.
        costs: of this way for codes; None where maps are not of codes.
    """
    channels, height, width = shape
    cells = -(-inputs // unit)
    tiles = -(-height // TILE) * -(-width // TILE)
    if costs is None:
        here = tiles * (PRODUCTS * channels * inputs * _FLOATS + _INTO_REALS * inputs + _OUT_OF_REALS * channels)
    else:
        pairs = cells * unit // 2
        here = tiles * (PRODUCTS * channels * pairs * costs.words + costs.into * pairs + costs.out_of * channels)
    return here < height * width * 9 * channels * cells


def transform_codes(weight_OIKK: Tensor) -> Tensor:
    """G g G^T in whole numbers: int16 [36, O, I]."""
    made_OI66 = _G @ weight_OIKK.long() @ _G.T
    return made_OI66.permute(2, 3, 0, 1).flatten(0, 1).to(torch.int16)


def transform(weight_OIKK: Tensor) -> Tensor:
    """G g G^T, computed in float64: float32 [36, O, I]."""
    rows = [[x**power / math.prod(x - y for y in POINTS if y != x) for power in range(3)] for x in POINTS]
    G = torch.tensor([*rows, [0.0, 0.0, 1.0]], dtype=torch.float64)
    made_OI66 = G @ weight_OIKK.double() @ G.T
    return made_OI66.permute(2, 3, 0, 1).flatten(0, 1).float()


def cells_of_codes(weight_OIKK: Tensor, unit: int) -> Tensor:
    """Transformed weights as the kernel reads them: [O / 8][36][2][pairs][4 filters][2]; the last eight may be four.

    Args:
        weight_OIKK: int8 codes, O a multiple of 4.
        unit: channels of a cell. Pair i of a cell is its channels i and i + unit / 2.
    """
    channels, inputs = weight_OIKK.shape[:2]
    made = functional.pad(transform_codes(weight_OIKK), (0, -inputs % unit))
    pairs = made.view(PRODUCTS, channels // _BLOCK, _BLOCK, -1, 2, unit // 2).transpose(-1, -2)
    return _together(pairs.flatten(3, 4).transpose(2, 3), filters=8)


def cells(weight_OIKK: Tensor, unit: int) -> Tensor:
    """The same in float32: [O / 16][36][4][channels][4 filters]; the last sixteen may be fewer.

    Args:
        weight_OIKK: of float32 or bfloat16 maps, O a multiple of 4.
        unit: channels of a cell.
    """
    made = functional.pad(transform(weight_OIKK), (0, -weight_OIKK.shape[1] % unit))
    return _together(made.unflatten(1, (-1, _BLOCK)).transpose(2, 3), filters=16)


def _together(blocks: Tensor, filters: int) -> Tensor:
    """[36, blocks of four filters, ...], all 36 of the filters that the kernel takes together next to each other."""
    return torch.cat([some.flatten() for some in blocks.split(filters // _BLOCK, dim=1)])
