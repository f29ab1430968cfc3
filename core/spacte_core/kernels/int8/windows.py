"""What the filters of a convolution see of its input: for its results, and for the moments of what meets each weight.

A weight's place in a filter is a tap (of height and width) and a channel, in this order: maps lie in memory that way,
and one copy of a few windows serves products and moments alike.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from spacte_core.kernels.compiler import call

from .rounding_kernel import rounding_kernel

_PATCHES, _MOST_VALUES = 2048, 1 << 24
"""Windows whose moments are taken, and values of all windows that these are chosen from. Chosen: more windows than
filters have weights."""

_LANES = 16  # of channels that the kernel multiplies at a time

_COPIED = 1 << 18  # values that are multiplied at a time, 2 MB. Chosen: half and twice as many were no faster


class Pairs(NamedTuple):
    """Pairs of pixels whose channels are multiplied, in values of a map.

    Attributes:
        first: where the first pixel of the first pair begins.
        height, width: rows and columns of pairs.
        behind: how far the second pixel of a pair lies behind the first.
        row, column: from one row, and one column, of pairs to the next.
    """

    first: int
    height: int
    width: int
    behind: int
    row: int
    column: int


class Windows:
    """The windows of some rows, for a convolution whose filters see all channels.

    Args:
        conv: of any geometry.
        x_NCHW: its input, float64.
    """

    def __init__(self, conv: nn.Conv2d, x_NCHW: Tensor) -> None:
        self.conv = conv
        height, width = (int(p) for p in conv.padding)
        seen = functional.pad(x_NCHW.permute(0, 2, 3, 1).contiguous(), (0, 0, width, width, height, height))
        seen = self._maps_NHWC = seen.contiguous()  # what is padded may lie otherwise, such as maps of one row
        for dim, (kernel, stride, dilation) in enumerate(
            zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)
        ):
            seen = seen.unfold(dim + 1, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
        self.view_NHWkkC = seen.permute(0, 1, 2, 4, 5, 3)
        values = x_NCHW[0].numel() * conv.kernel_size[0] * conv.kernel_size[1]
        self._few_NHWkkC = self.view_NHWkkC[: max(1, _MOST_VALUES // values)]
        self._every = max(1, self._few_NHWkkC.shape[:3].numel() // _PATCHES)  # of them is a patch

    @cached_property
    def patches(self) -> Tensor:
        """A few windows, evenly chosen, [N, T, C]."""
        if self._every == 1:
            return self._few_NHWkkC.flatten(0, 2).flatten(1, 2)
        places = self._few_NHWkkC.shape[:3]
        chosen = np.unravel_index(np.arange(0, places.numel(), self._every), places)
        return self._few_NHWkkC[tuple(map(torch.from_numpy, chosen))].flatten(1, 2)

    def moments(self) -> Tensor:
        """The sums over the patches of all products of two weights' inputs, [T, C, T, C]."""
        taps = list(product(*map(range, self.conv.kernel_size)))
        maps = self._maps_NHWC[: len(self._few_NHWkkC)] if self._every == 1 else self.patches
        pairs = {(a, b): self._pairs(taps[a], taps[b]) for a in range(len(taps)) for b in range(a, len(taps))}
        different = list(dict.fromkeys(pairs.values()))
        sums = dict(zip(different, _sums(maps, different), strict=True))
        channels = maps.shape[-1]
        made_TCTC = maps.new_empty(len(taps), channels, len(taps), channels)
        for (a, b), met in pairs.items():
            made_TCTC[a, :, b] = sums[met]
            made_TCTC[b, :, a] = sums[met].T
        return made_TCTC

    def _pairs(self, a: tuple[int, ...], b: tuple[int, ...]) -> Pairs:
        """What two taps meet in all patches, without pairs of which one pixel is padding and thus zero.

        So taps that are not on the same side of the centre meet the same pairs as all others with that distance, where
        every pixel has its window.
        """
        channels = self.view_NHWkkC.shape[5]
        if self._every > 1:
            first, second = (i * self.conv.kernel_size[1] + j for i, j in (a, b))
            return Pairs(first * channels, 1, 1, (second - first) * channels, 0, 0)
        strides = self._maps_NHWC.stride()[1:3]
        first, behind, counts, steps = 0, 0, [], []
        for dim, (i, j) in enumerate(zip(a, b, strict=True)):
            stride, dilation, padding = self.conv.stride[dim], self.conv.dilation[dim], int(self.conv.padding[dim])
            i, j, end = i * dilation, j * dilation, self._maps_NHWC.shape[dim + 1] - padding
            start = max(0, -((min(i, j) - padding) // stride))
            stop = min(self.view_NHWkkC.shape[dim + 1], -((max(i, j) - end) // stride))
            first += (start * stride + i) * strides[dim]
            behind += (j - i) * strides[dim]
            counts.append(max(stop - start, 0))
            steps.append(stride * strides[dim])
        return Pairs(first, counts[0], counts[1], behind, steps[0], steps[1])

    def convolved(self) -> Tensor:
        """The convolution's result, [N, O, H, W]; in memory O comes first, since a product is faster that way."""
        weight_OK = self.conv.weight.detach().double().permute(0, 2, 3, 1).flatten(1)
        places = self.view_NHWkkC.shape[:3]
        if self._every == 1 and len(self._few_NHWkkC) == len(self.view_NHWkkC):
            parts = [self.patches]
        else:
            parts = self.view_NHWkkC.split(max(1, _COPIED // self.view_NHWkkC[0].numel()))
        sums_OP = torch.cat([weight_OK @ part.reshape(-1, weight_OK.shape[1]).T for part in parts], 1)
        if self.conv.bias is not None:
            sums_OP += self.conv.bias.detach().double()[:, None]
        return sums_OP.view(-1, *places).transpose(0, 1)


def _sums(maps: Tensor, pairs: Sequence[Pairs]) -> Tensor:
    """The sums of the products of the channels of pairs in all maps, [pairs, C, C]; images are the first dimension."""
    channels, image = maps.shape[-1], maps.stride(0)
    kernel = rounding_kernel() if channels % _LANES == 0 else None
    if kernel is not None:
        sums_PCC = maps.new_empty(len(pairs), channels, channels)
        sizes = (len(pairs), channels, torch.get_num_threads())
        call(kernel.spacte_moments, maps, len(maps), image, torch.tensor(pairs), *sizes, sums_PCC)
        return sums_PCC

    def pixels(met: Pairs, behind: int) -> Tensor:
        shape, apart = (len(maps), met.height, met.width, channels), (image, met.row, met.column, 1)
        return maps.as_strided(shape, apart, maps.storage_offset() + met.first + behind).reshape(-1, channels)

    return torch.stack([pixels(met, 0).T @ pixels(met, met.behind) for met in pairs])
