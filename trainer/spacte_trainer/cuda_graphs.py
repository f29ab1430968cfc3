"""CUDA graphs for training: a step of a deep network as one launch instead of ten thousand.

The kernels of a ResNet-110 with five heads are so short that launching them takes several times as long as running
them. A recorded step is launched as a whole: forward pass, backward pass and the optimiser's update, on the device
alone. What the method computes on the host (thresholds, warm-ups) is constant within an epoch and recorded with the
step, so each epoch records its own; that takes about as long as one step without a recording.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .objectives import Loss, SeededDraws, Step

_log = logging.getLogger(__name__)

WARM_UPS = 3
"""Steps that are launched kernel by kernel first: libraries choose their kernels, the optimiser makes its buffers."""

Launch = Callable[[Tensor, Tensor, Step], Loss]


class RecordedStep:
    """One step for pieces of one shape, recorded; its inputs and its loss lie in buffers of its own.

    Args:
        launch: takes a step with the pixels, labels and draws that it is given.
        x_BCHW, y_B: a piece of the shape to record for.
        step: its draws come from a generator of the same device, which goes on with every replay.
        pool, stream: memory and stream of the recording.

    Raises:
        RuntimeError: something in the step cannot be recorded; nothing has been computed then.
    """

    def __init__(
        self, launch: Launch, x_BCHW: Tensor, y_B: Tensor, step: Step, pool: Any, stream: torch.cuda.Stream
    ) -> None:
        self.step = step
        self.x_BCHW, self.y_B = x_BCHW.clone(), y_B.clone()
        self.graph = torch.cuda.CUDAGraph()
        # Heads that are recorded on streams of their own meet gradient sums that the launched steps left elsewhere.
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
        if isinstance(step.draws, SeededDraws):
            self.graph.register_generator_state(step.draws.generator)
        with (
            torch.cuda.device(x_BCHW.device),
            torch.cuda.graph(self.graph, pool=pool, stream=stream, capture_error_mode="thread_local"),
        ):
            self.loss = launch(self.x_BCHW, self.y_B, step)

    def replay(self, x_BCHW: Tensor, y_B: Tensor) -> Loss:
        """Take the step on another piece; the loss is overwritten by the next replay."""
        self.x_BCHW.copy_(x_BCHW)
        self.y_B.copy_(y_B)
        self.graph.replay()
        return self.loss


class Replays:
    """Takes every step of a run on one GPU, recorded where that pays: for pieces of the shape that comes first.

    Pieces of another shape (the rest of a data set) are launched kernel by kernel. So is everything, with a warning,
    if a step turns out not to be recordable.

    Args:
        launch: takes one step; its result must hold no autograd graph.
        device: a CUDA device.
    """

    def __init__(self, launch: Launch, device: torch.device) -> None:
        self.launch = launch
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        self.shape: torch.Size | None = None
        self.launched = 0
        self.recorded: RecordedStep | None = None
        self.recordable = True

    def __call__(self, x_BCHW: Tensor, y_B: Tensor, step: Step) -> Loss:
        """Take one step."""
        self.shape = self.shape or x_BCHW.shape
        if x_BCHW.shape != self.shape or not self.recordable or self.launched < WARM_UPS:
            self.launched += x_BCHW.shape == self.shape
            return self._launch_apart(x_BCHW, y_B, step)
        if self.recorded is None or self.recorded.step is not step:
            try:  # the one before is let go afterwards: the pool needs a recording that it belongs to
                self.recorded = RecordedStep(self.launch, x_BCHW, y_B, step, self.pool, self.stream)
            except RuntimeError as error:
                _log.warning("the training step runs without a CUDA graph: %s", error)
                self.recorded, self.recordable = None, False
                return self._launch_apart(x_BCHW, y_B, step)
        return self.recorded.replay(x_BCHW, y_B)

    def _launch_apart(self, x_BCHW: Tensor, y_B: Tensor, step: Step) -> Loss:
        """Launch on the recordings' stream, so that what libraries keep for a stream is there before one is made."""
        outside = torch.cuda.current_stream(x_BCHW.device)
        self.stream.wait_stream(outside)
        with torch.cuda.stream(self.stream):
            loss = self.launch(x_BCHW, y_B, step)
        outside.wait_stream(self.stream)
        return loss
