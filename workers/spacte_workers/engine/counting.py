"""From noisy rows to class counts, batch by batch, without leaving the device.

Shape suffixes: N rows in all, S shards that share batches, B rows of a batch, P pixels, K classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spacte_core.forms import Form
from spacte_core.votes import votes_of
from spacte_workers.shards import Votes

from .logits import WantedLogits
from .noise_step import NoiseStep


@dataclass(frozen=True)
class RowBatch:
    """Rows of one forward pass, exactly as many as the form computes at once.

    Attributes:
        form: what computes them.
        rows_B5: their names.
        shard_B: which shard each belongs to.
        size: how many count; the others are copies of the last, so that every call of a form has the same shape.
    """

    form: Form
    rows_B5: Tensor
    shard_B: Tensor
    size: int


@dataclass(frozen=True)
class ShardRows:
    """Rows to draw and count for one or more shards; all tensors are on the device.

    Attributes:
        pixels_SP: pixels of each shard's image, see `NoiseStep.pixels_of`.
        rows_N5: names of the rows.
        shard_N: which shard each row belongs to.
    """

    pixels_SP: Tensor
    rows_N5: Tensor
    shard_N: Tensor

    def batches(self, forms: Sequence[Form]) -> Iterator[RowBatch]:
        """Full batches.

        Args:
            forms: the same function for one or two batch sizes, the larger first.
        """
        start = 0
        while start < len(self.rows_N5):
            form = form_for(forms, len(self.rows_N5) - start)
            rows_B5, shard_B = self.rows_N5[start:][: form.batch], self.shard_N[start:][: form.batch]
            yield RowBatch(form, padded(rows_B5, form.batch), padded(shard_B, form.batch), len(rows_B5))
            start += len(rows_B5)


class Counts:
    """Votes of each shard, on the device until they are asked for.

    Attributes:
        columns: K, and one for rows that vote for no class.
        counts: [S * columns].
        logits: of the rows of shards that want them.
    """

    def __init__(self, shards: int, classes: int, device: torch.device, logits: WantedLogits | None = None) -> None:
        self.columns = classes + 1
        self.logits = logits or WantedLogits([False] * shards, device)
        self.counts = torch.zeros(shards * self.columns, dtype=torch.int64, device=device)

    def add(self, shard_B: Tensor, vote_B: Tensor) -> None:
        """Count one vote for each row, as `votes_of` gives them."""
        self.counts.index_add_(0, shard_B * self.columns + vote_B, torch.ones_like(vote_B))

    def votes(self) -> list[Votes]:
        """Those of each shard, without times; on a GPU this alone waits for the device."""
        lists = self.counts.view(-1, self.columns).tolist()
        logits = self.logits.of_shards()
        return [
            Votes(tuple(counts), 0.0, invalid, logits_NK=logits.get(shard), rounding=self.logits.rounding)
            for shard, (*counts, invalid) in enumerate(lists)
        ]


def count_all_heads(forms: Sequence[Form], step: NoiseStep, rows: ShardRows, counts: Counts) -> None:
    """Each row votes by the sum of its heads' logits."""
    for batch in rows.batches(forms):
        logits_BK = batch.form.logits(step.add_noise(rows.pixels_SP, batch.shard_B, batch.rows_B5))
        shard_B, logits_BK = batch.shard_B[: batch.size], logits_BK[: batch.size]
        counts.add(shard_B, votes_of(logits_BK))
        counts.logits.keep(shard_B, logits_BK, len(batch.form.heads))


def form_for(forms: Sequence[Form], rows: int) -> Form:
    """The form of the large batch, or of the small one where at most half of a large batch is left."""
    return forms[-1] if rows * 2 <= forms[0].batch else forms[0]


def padded(rows: Tensor, batch: int) -> Tensor:
    """The rows, filled up with copies of the last one."""
    if len(rows) == batch:
        return rows
    return rows[torch.arange(batch, device=rows.device).clamp_(max=len(rows) - 1)]
