"""Image sets that lie in memory, on the device that trains: a batch costs one gather and no copy."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from .base import Batch, Split, hold_out

ON_DEVICE_BYTES = 4 << 30
"""Sets above this size stay in main memory and are copied batch by batch. Chosen: a small part of a GPU's memory."""


@dataclass
class MemoryData:
    """Images [N, C, H, W], uint8, with labels [N], int64; `crop` and `flip` are those of `DataConfig`."""

    images_NCHW: Tensor
    labels_N: Tensor
    class_names: Sequence[str]
    crop: int = 0
    flip: bool | Literal["alternate"] = False
    skipped: Sequence[str] = field(default_factory=tuple)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        _, channels, height, width = self.images_NCHW.shape
        return channels, height, width

    def __len__(self) -> int:
        return len(self.images_NCHW)

    def part(self, split: Split) -> "MemoryData":
        """A split of a set that has none, see `hold_out`."""
        kept_N = hold_out(self.labels_N, split)
        return replace(self, images_NCHW=self.images_NCHW[kept_N], labels_N=self.labels_N[kept_N])

    def batches(
        self,
        plan: Sequence[Tensor],
        device: torch.device,
        augment: torch.Generator | None = None,
        mirrored_N: Tensor | None = None,
    ) -> Iterator[Batch]:
        if self.images_NCHW.nbytes <= ON_DEVICE_BYTES:
            self.images_NCHW = self.images_NCHW.to(device)
            self.labels_N = self.labels_N.to(device)
        if mirrored_N is not None:
            mirrored_N = mirrored_N.to(self.images_NCHW.device)
        for index_B in plan:
            index_B = index_B.to(self.images_NCHW.device)
            x_BCHW = self.images_NCHW[index_B].to(device, non_blocking=True)
            y_B = self.labels_N[index_B].to(device, non_blocking=True)
            if augment is not None:
                flip = bool(self.flip) if mirrored_N is None else mirrored_N[index_B].to(device, non_blocking=True)
                x_BCHW = crop_and_flip(x_BCHW, self.crop, flip, augment)
            yield Batch(x_BCHW.float().div_(255), y_B)


def crop_and_flip(x_BCHW: Tensor, padding: int, flip: bool | Tensor, generator: torch.Generator) -> Tensor:
    """Crop each image at random from itself padded with zeros, and mirror it with probability one half.

    One gather on the whole batch; every image has its own offsets in 0..2 * padding and its own coin. `flip` may name
    the images to mirror instead, bool [B], and no coin is tossed then.
    """
    batch, _, height, width = x_BCHW.shape
    device = x_BCHW.device
    rows_BH = torch.arange(height, device=device).expand(batch, height)
    columns_BW = torch.arange(width, device=device).expand(batch, width)
    if flip is True:
        flip = torch.rand(batch, 1, generator=generator, device=device).squeeze(1) < 0.5
    if isinstance(flip, Tensor):
        columns_BW = torch.where(flip[:, None], columns_BW.flip(1), columns_BW)
    if padding:
        x_BCHW = torch.nn.functional.pad(x_BCHW, [padding] * 4)
        offsets_2B1 = torch.randint(2 * padding + 1, (2, batch, 1), generator=generator, device=device)
        rows_BH, columns_BW = rows_BH + offsets_2B1[0], columns_BW + offsets_2B1[1]
    if flip is False and not padding:
        return x_BCHW
    image_B = torch.arange(batch, device=device)
    # Advanced indices around a slice put the channel last; the permutation brings it back to front.
    picked_BHWC = x_BCHW[image_B[:, None, None], :, rows_BH[:, :, None], columns_BW[:, None, :]]
    return picked_BHWC.permute(0, 3, 1, 2)
