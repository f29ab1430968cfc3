"""Promise: a sum becomes part of a convolution only where kernels may write over what they add, or add it as it is."""

import pytest
import torch
from torch import Tensor, nn

from spacte_core.kernels.cpu.onednn import to_onednn
from spacte_core.kernels.cpu.winograd_layers import to_winograd_layers
from spacte_core.kernels.graph.fusing import fuse, fused_convs
from spacte_core.kernels.graph.tracing import trace


class AddsWhatMayShareMemory(nn.Module):
    """A residual that the convolution reads under another name, or that is repeated to fit."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, 64, 3, padding=1) for width in (3, 64))
        self.between = nn.ReLU(inplace=True) if kind == "in place" else nn.Identity()
        self.place = nn.Parameter(torch.randn(1, 64, 29, 29))
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if self.kind == "a place's own":
            return (self.second(y) + self.place).relu()
        if self.kind == "a channel's own":
            return self.second(y.mean((2, 3), keepdim=True)) + y
        return (self.second(self.between(y)) + y).relu()


@pytest.mark.parametrize("backend", ["plain", "onednn", "winograd"])
@pytest.mark.parametrize("kind", ["identity", "in place", "a place's own", "a channel's own"])
def test_residuals_that_share_memory_or_are_repeated(kind: str, backend: str) -> None:
    """More pixels than a block of the kernels has, so that some are read after others are written."""
    torch.manual_seed(0)
    net = AddsWhatMayShareMemory(kind).eval().requires_grad_(requires_grad=False)
    x = torch.randn(12, 3, 29, 29).contiguous(memory_format=torch.channels_last)
    wanted = net(x)
    graph = trace(net)
    assert graph is not None
    fused = fuse(graph, x[:2])
    assert not any(step.in_place for _, step in fused_convs(fused))
    if backend == "onednn":
        fused = to_onednn(fused, x[:2], len(x))
    elif backend == "winograd":
        to_winograd_layers(fused, x[:2])
    torch.testing.assert_close(fused(x), wanted, rtol=1e-4, atol=1e-4)


def test_sums_of_sums_are_included() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x) + x
            return self.second(y) + y

    x = torch.randn(2, 16, 8, 8)
    graph = trace(Twice().eval())
    assert graph is not None
    steps = fused_convs(fuse(graph, x))
    assert [len(node.args) for node, _ in steps] == [2, 2]
    assert [step.in_place for _, step in steps] == [False, False]
