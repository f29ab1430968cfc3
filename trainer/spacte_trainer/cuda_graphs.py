"""CUDA graphs for training: a step of a deep network as one launch instead of ten thousand.

The kernels of a ResNet-110 with five heads are so short that launching them takes several times as long as running
them. A captured step is launched as a whole: forward pass, backward pass and the optimiser's update, on the device
alone. What the method computes on the host (thresholds, warm-ups) is constant within an epoch and captured with the
step, so each epoch captures its own; that takes about as long as one step without a graph.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spacte_core.kernels.gpu.cuda_graphs import WARM_UPS, capture, launched_on

from .objectives import Loss, SeededDraws, Step

_log = logging.getLogger(__name__)

Launch = Callable[[Tensor, Tensor, Step], Loss]


class GraphedStep:
    """One step for pieces of one shape, captured; its inputs and its loss lie in buffers of its own.

    Args:
        launch: takes a step with the pixels, labels and draws that it is given.
        x_BCHW, y_B: a piece of the shape to capture for.
        step: its draws come from a generator of the same device, which goes on with every replay.
        pool, stream: memory and stream of the capture.

    Raises:
        RuntimeError: something in the step cannot be captured; nothing has been computed then.
    """

    def __init__(
        self, launch: Launch, x_BCHW: Tensor, y_B: Tensor, step: Step, pool: Any, stream: torch.cuda.Stream
    ) -> None:
        self.step = step
        self.x_BCHW, self.y_B = x_BCHW.clone(), y_B.clone()
        # Heads that are captured on streams of their own meet gradient sums that the launched steps left elsewhere.
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
        generators = [step.draws.generator] if isinstance(step.draws, SeededDraws) else []
        self.graph, self.loss = capture(
            lambda: launch(self.x_BCHW, self.y_B, step), stream, pool=pool, generators=generators
        )

    def replay(self, x_BCHW: Tensor, y_B: Tensor) -> Loss:
        """Take the step on another piece; the loss is overwritten by the next replay."""
        self.x_BCHW.copy_(x_BCHW)
        self.y_B.copy_(y_B)
        self.graph.replay()
        return self.loss


class GraphedSteps:
    """Takes every step of a run on one GPU, captured where that saves time: for the shape that an epoch begins with.

    Pieces of another shape (the rest of a data set) are launched kernel by kernel. So is everything, with a warning,
    if a step cannot be captured.

    Args:
        launch: takes one step; its result must hold no autograd graph.
        device: a CUDA device.
    """

    def __init__(self, launch: Launch, device: torch.device) -> None:
        self.launch = launch
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        self.step: Step | None = None
        self.shape: torch.Size | None = None
        self.launched = 0
        self.graphed: GraphedStep | None = None
        self.can_capture = True

    def __call__(self, x_BCHW: Tensor, y_B: Tensor, step: Step) -> Loss:
        """Take one step."""
        if self.step is not step:  # an epoch begins
            self.step = step
            if self.shape != x_BCHW.shape:  # crops grow, say
                self.shape, self.launched = x_BCHW.shape, 0
        if x_BCHW.shape == self.shape and self.can_capture and self.launched >= WARM_UPS:
            if self.graphed is None or self.graphed.step is not step:
                self._capture(x_BCHW, y_B, step)
            if self.graphed is not None:
                return self.graphed.replay(x_BCHW, y_B)
        self.launched += x_BCHW.shape == self.shape
        with launched_on(self.stream):  # of the captures, so that what libraries keep for a stream is there before one
            return self.launch(x_BCHW, y_B, step)

    def _capture(self, x_BCHW: Tensor, y_B: Tensor, step: Step) -> None:
        try:  # the graph before is released afterwards: the pool needs one that it belongs to
            self.graphed = GraphedStep(self.launch, x_BCHW, y_B, step, self.pool, self.stream)
        except RuntimeError as error:
            _log.warning("the training step runs without a CUDA graph: %s", error)
            self.graphed, self.can_capture = None, False
