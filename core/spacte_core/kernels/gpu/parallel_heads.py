"""Heads on CUDA streams of their own while a graph is captured: they become branches that run side by side."""

from functools import cache

import torch
from torch import Tensor

from spacte_core.models import MultiHeadNet


class ParallelHeadsNet(MultiHeadNet):
    """A `MultiHeadNet` whose heads run side by side while a CUDA graph is captured.

    A head's kernels are too short to fill a GPU. Its gradients are computed on its stream, too.
    """

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        """As `MultiHeadNet.forward`."""
        features = self.backbone(self.normalize(x_BCHW))
        if not _is_capturing(features):
            return [head(features) for head in self.heads]
        current, streams = torch.cuda.current_stream(features.device), _streams(features.device, len(self.heads))
        logits: list[Tensor] = []
        for head, stream in zip(self.heads, streams, strict=True):
            stream.wait_stream(current)
            features.record_stream(stream)
            with torch.cuda.stream(stream):
                logits.append(head(features))
        for z_BK, stream in zip(logits, streams, strict=True):
            current.wait_stream(stream)
            z_BK.record_stream(current)
        return logits


def _is_capturing(x: Tensor) -> bool:
    return x.is_cuda and not torch.compiler.is_compiling() and torch.cuda.is_current_stream_capturing()


@cache
def _streams(device: torch.device, count: int) -> tuple[torch.cuda.Stream, ...]:
    return tuple(torch.cuda.Stream(device) for _ in range(count))
