"""What the filters of a convolution see of its input: for its results, and for the moments of what meets each weight.

A weight's place in a filter is a tap (of height and width) and a channel, in this order: maps lie in memory that way,
and one copy of a few windows serves products and moments alike.
"""

from collections.abc import Iterator
from functools import cached_property
from itertools import groupby, product

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

_PATCHES, _MOST_VALUES = 2048, 1 << 24
"""Windows whose moments are taken, and values of all windows that these are chosen from. Chosen: more windows than
filters have weights."""

_COPIED = 1 << 18  # values that are multiplied at a time, 2 MB. Chosen: half and twice as many were no faster


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
        patches_NTC = self.patches
        taps, channels = patches_NTC.shape[1:]
        shared = self._pairs_of_taps()
        made_TCTC = patches_NTC.new_empty(taps, channels, taps, channels)
        known: dict[object, Tensor] = {}
        for a in range(taps):
            for run in _runs([b for b in range(a, taps) if shared[a, b] not in known]):
                sums = patches_NTC[:, a].T @ patches_NTC[:, run.start : run.stop].flatten(1)
                known |= {shared[a, b]: sums_CC for b, sums_CC in zip(run, sums.split(channels, 1), strict=True)}
            for b in range(a, taps):
                made_TCTC[a, :, b] = known[shared[a, b]]
                made_TCTC[b, :, a] = known[shared[a, b]].T
        return made_TCTC

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

    def _pairs_of_taps(self) -> dict[tuple[int, int], object]:
        """A name for the moments of each pair of taps: those of one name are the same sums.

        Where every pixel has its window, two taps that are not on the same side of the centre meet all pairs of pixels
        so far from each other, and so do any two others with that distance.
        """
        conv = self.conv
        taps = list(product(*map(range, conv.kernel_size)))
        geometry = zip(conv.kernel_size, conv.stride, conv.padding, conv.dilation, strict=True)
        same_size = all(s == 1 and 2 * int(p) == d * (k - 1) for k, s, p, d in geometry)

        def name(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[object, ...]:
            if not same_size or self._every > 1:
                return a, b
            sizes = zip(a, b, conv.kernel_size, strict=True)
            return tuple(j - i if (2 * i - k + 1) * (2 * j - k + 1) <= 0 else (i, j) for i, j, k in sizes)

        return {(i, j): name(a, b) for i, a in enumerate(taps) for j, b in enumerate(taps)}


def _runs(numbers: list[int]) -> Iterator[range]:
    """Rising numbers as ranges without gaps."""
    for _, group in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        yield range(run[0], run[-1] + 1)
