"""The logits of some rows, kept while batches are counted. Suffixes as in `counting.py`.

They are for scores, for comparing two models row by row, and for comparing rows that are drawn again.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class WantedLogits:
    """The mean over heads of each row's logits, float32, for those shards that want them.

    Args:
        wanted: one a shard.
        device: where batches are computed.
        rounding: by how much a row's logits may hang on its place in the batch, as part of what rows differ by.
    """

    def __init__(self, wanted: Sequence[bool], device: torch.device, rounding: float = 0.0) -> None:
        self.rounding = rounding
        self._shards = [shard for shard, wants in enumerate(wanted) if wants]
        self._wanted_S = torch.tensor(wanted, device=device)
        self._parts: list[tuple[Tensor, Tensor]] = []

    def among(self, shard_B: Tensor) -> bool:
        """Whether a row of these shards is wanted."""
        return bool(self._shards) and bool(self._wanted_S[shard_B].any())

    def keep(self, shard_B: Tensor, logits_BK: Tensor, heads: int) -> None:
        """Keep what is wanted of a batch, whose logits are summed over so many heads."""
        if self._shards:
            wanted_B = self._wanted_S[shard_B]
            self._parts.append((shard_B[wanted_B], logits_BK[wanted_B] / heads))

    def of_shards(self) -> dict[int, NDArray[np.float32]]:
        """[N, K] of each shard that wants them, in the order in which its rows were computed."""
        if not self._parts:
            return {}
        shard_N, logits_NK = (torch.cat(parts).cpu() for parts in zip(*self._parts, strict=True))
        return {shard: logits_NK[shard_N == shard].float().numpy() for shard in self._shards}
