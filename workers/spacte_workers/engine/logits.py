"""From noisy rows to their logits, for scores and for comparing two models row by row. Suffixes as in `counting.py`."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from spacte_core.forms import Form
from spacte_workers.shards import Votes

from .counting import Counts, ShardRows, votes_of
from .noise_step import NoiseStep


def logits_of_shards(forms: Sequence[Form], step: NoiseStep, rows: ShardRows, counts: Counts) -> list[Votes]:
    """Votes with the mean over heads of the logits of each row, float32, as the form computes them."""
    parts: list[torch.Tensor] = []
    for batch in rows.batches(forms):
        logits_BK = batch.form.logits(step.add_noise(rows.pixels_SP, batch.shard_B, batch.rows_B5))
        counts.add(batch.shard_B[: batch.size], votes_of(logits_BK[: batch.size]))
        parts.append(logits_BK[: batch.size] / len(batch.form.heads))
    logits_NK = torch.cat(parts).float().cpu().numpy()
    shard_N = rows.shard_N.cpu().numpy()
    return [replace(votes, logits_NK=logits_NK[shard_N == shard]) for shard, votes in enumerate(counts.votes())]
