"""From noisy rows to class counts, batch by batch, without leaving the device.

Shape suffixes: N rows in all, U shards that share the batches, B rows of a batch, K classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spacte_core.forms import Form, total

from .noise_step import NoiseStep


@dataclass(frozen=True)
class Work:
    """Rows to draw and count.

    Attributes:
        pixels_UP: pixels of each shard's image, see `NoiseStep.pixels_of`.
        rows_N5: names of the rows, on the device.
        unit_N: which shard each row belongs to, on the device.
    """

    pixels_UP: Tensor
    rows_N5: Tensor
    unit_N: Tensor

    def batches(self, forms: Sequence[Form]) -> Iterator[tuple[Form, Tensor, Tensor, int]]:
        """Full batches (form, rows_B5, unit_B, fresh) in forms' sizes; only the first `fresh` rows count.

        A short last batch is filled with copies of its last row: every call of a form has the same shape.

        Args:
            forms: the same function for one or more batch sizes, the largest first.
        """
        start, end = 0, len(self.rows_N5)
        while start < end:
            form = forms[0]
            for smaller in forms[1:]:  # at most half of the largest batch is left over for the small ones
                if (end - start) * 2 <= form.batch:
                    form = smaller
            fresh = min(form.batch, end - start)
            rows, unit = self.rows_N5[start : start + fresh], self.unit_N[start : start + fresh]
            if fresh < form.batch:
                index = torch.arange(form.batch, device=rows.device).clamp_(max=fresh - 1)
                rows, unit = rows[index], unit[index]
            yield form, rows, unit, fresh
            start += fresh


class Counts:
    """Votes of each shard for each class, on the device until they are asked for."""

    def __init__(self, units: int, classes: int, device: torch.device) -> None:
        self.classes = classes
        self.counts = torch.zeros(units * classes, dtype=torch.int64, device=device)

    def add(self, unit_B: Tensor, vote_B: Tensor) -> None:
        """Count one vote for each row."""
        self.counts.index_add_(0, unit_B * self.classes + vote_B, torch.ones_like(vote_B))

    def lists(self) -> list[list[int]]:
        """The counts; on a GPU the one moment at which the host waits."""
        return self.counts.view(-1, self.classes).tolist()


def count_all_heads(forms: Sequence[Form], step: NoiseStep, work: Work, counts: Counts) -> None:
    """Each row votes for the class with the greatest sum of head logits; ties go to the lowest class."""
    for form, rows_B5, unit_B, fresh in work.batches(forms):
        logits_BK = form.logits(step.noisy(work.pixels_UP, unit_B, rows_B5))
        counts.add(unit_B[:fresh], logits_BK[:fresh].argmax(1))


def count_consensus(forms: Sequence[Form], step: NoiseStep, work: Work, counts: Counts, k: int) -> None:
    """If the first k heads agree on a row, that is its vote; else all heads decide (Horvath et al. 2022).

    Rows without agreement wait until a full batch of them is there, and the other heads run on those batches
    only. So shapes stay fixed, and the other heads are paid for by the rows that need them.
    """
    waiting = _Waiting(forms, counts, k)
    for form, rows_B5, unit_B, fresh in work.batches(forms):
        features = form.trunk(step.noisy(work.pixels_UP, unit_B, rows_B5))
        logits = [head(features) for head in form.heads[:k]]
        vote_kB = torch.stack([z_BK.argmax(1) for z_BK in logits])
        agree_B = (vote_kB == vote_kB[0]).all(0)
        undecided = (~agree_B[:fresh]).nonzero().squeeze(1)
        agree_B[fresh:] = False
        counts.add(unit_B[agree_B], vote_kB[0][agree_B])
        if len(undecided):
            waiting.add(features[undecided], total(logits)[undecided], unit_B[undecided])
    waiting.finish()


class _Waiting:
    """Rows whose first heads disagree, until there is a full batch of them."""

    def __init__(self, forms: Sequence[Form], counts: Counts, k: int) -> None:
        self.forms, self.counts, self.k = forms, counts, k
        self.parts: list[tuple[Tensor, Tensor, Tensor]] = []
        self.size = 0

    def add(self, features: Tensor, summed: Tensor, unit: Tensor) -> None:
        """Take rows in, and run the other heads on each full batch."""
        self.parts.append((features, summed, unit))
        self.size += len(unit)
        while self.size >= self.forms[0].batch:
            self._run(self.forms[0])

    def finish(self) -> None:
        """Run the other heads on what is left."""
        while self.size:
            small = self.size * 2 <= self.forms[0].batch
            self._run(self.forms[-1 if small else 0])

    def _run(self, form: Form) -> None:
        features, summed, unit = (torch.cat(parts) for parts in zip(*self.parts, strict=True))
        fresh = min(form.batch, self.size)
        self.size -= fresh
        self.parts = [(features[fresh:], summed[fresh:], unit[fresh:])] if self.size else []
        index = torch.arange(form.batch, device=unit.device).clamp_(max=fresh - 1)
        batch = features[index]
        if batch.dim() == 4:
            batch = batch.contiguous(memory_format=torch.channels_last)
        logits_BK = summed[index]
        for head in form.heads[self.k :]:
            logits_BK = logits_BK + head(batch)
        self.counts.add(unit[:fresh], logits_BK[:fresh].argmax(1))
