"""Heads on CUDA streams of their own while a graph is captured: they become branches that run together."""

from functools import cache

import torch
from torch import Tensor, nn

from spacte_core.models import MultiHeadNet


class ParallelHeadsNet(MultiHeadNet):
    """A `MultiHeadNet` whose heads run together while a CUDA graph is captured.

    A head's kernels are too short to fill a GPU. Its gradients are computed on its stream, too.
    """

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        """As `MultiHeadNet.forward`."""
        features = self.backbone(self.normalize(x_BCHW))
        if is_capturing(features):
            return side_by_side(self.heads, features)
        return [head(features) for head in self.heads]


def is_capturing(x: Tensor) -> bool:
    """Whether a CUDA graph is being captured."""
    return x.is_cuda and not torch.compiler.is_compiling() and torch.cuda.is_current_stream_capturing()


def side_by_side(heads: nn.ModuleList, features: Tensor) -> list[Tensor]:
    """Logits_BK of every head, each computed on a stream of its own."""
    current, streams = torch.cuda.current_stream(features.device), _streams(features.device, len(heads))
    logits: list[Tensor] = []
    for head, stream in zip(heads, streams, strict=True):
        stream.wait_stream(current)
        features.record_stream(stream)
        with torch.cuda.stream(stream):
            logits.append(head(features))
    for z_BK, stream in zip(logits, streams, strict=True):
        current.wait_stream(stream)
        z_BK.record_stream(current)
    return logits


@cache
def _streams(device: torch.device, count: int) -> tuple[torch.cuda.Stream, ...]:
    return tuple(torch.cuda.Stream(device) for _ in range(count))
