"""K-consensus (Horvath et al. 2022): where the first k heads agree on a row, the others are not run.

Shape suffixes as in `counting.py`, and k heads.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from spacte_core.forms import Form, total
from spacte_core.votes import votes_of

from .counting import Counts, ShardRows, form_for, padded
from .noise_step import NoiseStep


def count_consensus(forms: Sequence[Form], step: NoiseStep, rows: ShardRows, counts: Counts, k: int) -> None:
    """If the first k heads agree on a row, that is its vote; else all heads decide (Horvath et al. 2022).

    Rows without agreement are collected until there is a full batch of them, and the other heads run on those batches
    only. So shapes stay fixed, and the other heads cost time only for rows that need them.
    """
    undecided = _Undecided(forms, counts, k)
    for batch in rows.batches(forms):
        features = batch.form.trunk(step.add_noise(rows.pixels_SP, batch.shard_B, batch.rows_B5))
        logits = [head(features) for head in batch.form.heads[:k]]
        vote_kB = torch.stack([votes_of(z_BK) for z_BK in logits])
        # A head whose logits are not finite agrees with none; the sum of all heads is then not finite either.
        agree_B = (vote_kB == vote_kB[0]).all(0) & (vote_kB[0] < logits[0].shape[1])
        open_rows = (~agree_B[: batch.size]).nonzero().squeeze(1)
        agree_B[batch.size :] = False
        counts.add(batch.shard_B[agree_B], vote_kB[0][agree_B])
        shard_B = batch.shard_B[: batch.size]
        if counts.logits.among(shard_B):
            summed_BK = total([head(features) for head in batch.form.heads])
            counts.logits.keep(shard_B, summed_BK[: batch.size], len(batch.form.heads))
        if len(open_rows):
            undecided.add(features[open_rows], total(logits)[open_rows], batch.shard_B[open_rows])
    undecided.finish()


class _Undecided:
    """Rows whose first k heads disagree: features, summed logits and shards, until there is a full batch of them."""

    def __init__(self, forms: Sequence[Form], counts: Counts, k: int) -> None:
        self.forms, self.counts, self.k = forms, counts, k
        self.parts: list[tuple[Tensor, Tensor, Tensor]] = []
        self.size = 0

    def add(self, features: Tensor, summed: Tensor, shard: Tensor) -> None:
        """Add rows, and run the other heads on each full batch."""
        self.parts.append((features, summed, shard))
        self.size += len(shard)
        while self.size >= self.forms[0].batch:
            self._run(self.forms[0])

    def finish(self) -> None:
        """Run the other heads on what is left."""
        while self.size:
            self._run(form_for(self.forms, self.size))

    def _run(self, form: Form) -> None:
        features, summed, shard = (torch.cat(parts) for parts in zip(*self.parts, strict=True))
        size = min(form.batch, self.size)
        self.size -= size
        self.parts = [(features[size:], summed[size:], shard[size:])] if self.size else []
        batch, logits_BK = padded(features[:size], form.batch), padded(summed[:size], form.batch)
        if batch.dim() == 4:
            batch = batch.contiguous(memory_format=torch.channels_last)
        for head in form.heads[self.k :]:
            logits_BK = logits_BK + head(batch)
        self.counts.add(shard[:size], votes_of(logits_BK[:size]))
