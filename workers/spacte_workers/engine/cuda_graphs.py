"""Noise, forward pass and counting of a batch as one CUDA graph, replayed without waiting for the host.

The launches of a deep network's several hundred kernels take longer than the kernels themselves; a captured batch is
one launch. Everything it reads lies in buffers of its own, and the counts stay on the device until the shard is done.
"""

import logging

import torch

from spacte_core.forms import Form
from spacte_core.kernels.gpu.cuda_graphs import WARM_UPS, capture, launched_on
from spacte_core.votes import votes_of

from .counting import Counts, ShardRows
from .noise_step import NoiseStep

_log = logging.getLogger(__name__)
_MOST_SHARDS = 32  # chosen: as many images, of ImageNet's size, are 10 MB; larger calls run without a graph


class GraphedBatch:
    """One form and one noise step, captured for full batches.

    Args:
        form: what votes.
        classes: K.
        step: what draws.

    Attributes:
        most_shards: how many may share a call: their images lie in buffers.

    Raises:
        RuntimeError: something in the batch cannot be captured.
    """

    def __init__(self, form: Form, classes: int, step: NoiseStep) -> None:
        device = step.device
        self.form, self.step, self.columns, self.most_shards = form, step, classes + 1, _MOST_SHARDS
        self.index_B = torch.arange(form.batch, device=device)
        self.shard_B, self.counted_B = torch.zeros_like(self.index_B), torch.ones_like(self.index_B)
        self.rows_B5 = torch.zeros(form.batch, 5, dtype=torch.int64, device=device)
        self.rows_B5[:, -1] = self.index_B
        self.pixels_SP = torch.zeros(_MOST_SHARDS, step.pixels, dtype=step.pixel_type, device=device)
        self.counts = torch.zeros(_MOST_SHARDS * self.columns, dtype=torch.int64, device=device)
        stream = torch.cuda.Stream(device)
        with launched_on(stream):  # compiles, and lets libraries allocate, before anything is captured
            for _ in range(WARM_UPS):
                self._launch()
        self.graph, _ = capture(self._launch, stream)
        self._check()

    def count(self, rows: ShardRows, counts: Counts) -> None:
        """Draw and count all rows, of up to `most_shards` shards."""
        self.counts.zero_()
        self.pixels_SP[: len(rows.pixels_SP)].copy_(rows.pixels_SP)
        for batch in rows.batches([self.form]):
            self.rows_B5.copy_(batch.rows_B5)
            self.shard_B.copy_(batch.shard_B)
            torch.lt(self.index_B, batch.size, out=self.counted_B)
            self.graph.replay()
        counts.counts += self.counts[: len(counts.counts)]

    def _launch(self) -> None:
        logits_BK = self.form.logits(self.step.add_noise(self.pixels_SP, self.shard_B, self.rows_B5))
        self.counts.index_add_(0, self.shard_B * self.columns + votes_of(logits_BK), self.counted_B)

    def _check(self) -> None:
        """A replay has to count as the same operations do when they are launched one by one."""
        self.counts.zero_()
        self._launch()
        launched = self.counts.clone()
        self.counts.zero_()
        self.graph.replay()
        if not torch.equal(self.counts, launched):
            raise RuntimeError("a replayed batch counts otherwise than a launched one")


def graphed_batch(form: Form, classes: int, step: NoiseStep) -> GraphedBatch | None:
    """The captured batch, or None, with a warning, where this one cannot be captured."""
    try:
        return GraphedBatch(form, classes, step)
    except RuntimeError as error:
        _log.warning("the batch runs without a CUDA graph: %s", error)
        return None
