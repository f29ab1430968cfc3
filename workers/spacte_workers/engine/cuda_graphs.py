"""CUDA graphs: noise, forward pass and counting of a batch as one replay, without waiting for the host.

The launches of a deep network's several hundred kernels cost more than the kernels themselves. A captured
batch costs one launch. Everything it reads lies in buffers of its own, and the counts stay on the device
until the shard is done.
"""

import logging

import torch

from spacte_core.forms import Form

from .counting import Counts, Work
from .noise_step import NoiseStep

_log = logging.getLogger(__name__)
_WARM_UPS = 3


class CapturedBatch:
    """One form and one noise step, captured for full batches.

    Args:
        form: what votes.
        step: what draws.
        classes: K.
        slots: most images that share a call.

    Raises:
        RuntimeError: something in the batch cannot be captured.
    """

    def __init__(self, form: Form, step: NoiseStep, classes: int, slots: int) -> None:
        device = step.device
        self.form, self.step, self.slots = form, step, slots
        self.rows_B5 = torch.zeros(form.batch, 5, dtype=torch.int64, device=device)
        self.unit_B = torch.zeros(form.batch, dtype=torch.int64, device=device)
        self.fresh_B = torch.ones(form.batch, dtype=torch.int64, device=device)
        pixel_type = torch.int16 if step.grid else torch.float32
        self.pixels_UP = torch.zeros(slots, step.pixels, dtype=pixel_type, device=device)
        self.counts = torch.zeros(slots * classes, dtype=torch.int64, device=device)
        self.classes = classes
        self.place_B = torch.arange(form.batch, device=device)
        self.rows_B5[:, -1] = self.place_B
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):  # compiles, and lets libraries allocate, before anything is recorded
            for _ in range(_WARM_UPS):
                self._batch()
        torch.cuda.current_stream(device).wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        # Other threads draw with other engines meanwhile: what they allocate must not spoil the recording.
        with torch.cuda.device(device), torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
            self._batch()
        self._check()

    def _check(self) -> None:
        """A replay has to count as the same operations do when they are launched one by one."""
        self.counts.zero_()
        self._batch()
        launched = self.counts.clone()
        self.counts.zero_()
        self.graph.replay()
        if not torch.equal(self.counts, launched):
            raise RuntimeError("a replayed batch counts otherwise than a launched one")

    def count(self, work: Work, counts: Counts) -> None:
        """Draw and count all rows of the work, whose images fit the slots."""
        self.counts.zero_()
        self.pixels_UP[: len(work.pixels_UP)].copy_(work.pixels_UP)
        for _, rows_B5, unit_B, fresh in work.batches([self.form]):
            self.rows_B5.copy_(rows_B5)
            self.unit_B.copy_(unit_B)
            torch.lt(self.place_B, fresh, out=self.fresh_B)
            self.graph.replay()
        counts.counts += self.counts[: len(counts.counts)]

    def _batch(self) -> None:
        logits_BK = self.form.logits(self.step.noisy(self.pixels_UP, self.unit_B, self.rows_B5))
        slot_B = self.unit_B * self.classes + logits_BK.argmax(1)
        self.counts.index_add_(0, slot_B, self.fresh_B)


class Captures:
    """Captured batches by noise step, made when they are first wanted."""

    def __init__(self, form: Form, classes: int, slots: int) -> None:
        self.form, self.classes, self.slots = form, classes, slots
        self.made: dict[NoiseStep, CapturedBatch | None] = {}

    def batch(self, step: NoiseStep) -> CapturedBatch | None:
        """The captured batch, or None where this one cannot be captured."""
        if step not in self.made:
            try:
                self.made[step] = CapturedBatch(self.form, step, self.classes, self.slots)
            except RuntimeError as error:
                _log.warning("the batch runs without a CUDA graph: %s", error)
                self.made[step] = None
        return self.made[step]

    def forget(self, step: NoiseStep) -> None:
        """Free a noise step's buffers."""
        self.made.pop(step, None)
