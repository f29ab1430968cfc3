"""Promise: wide layers by Winograd's products are the fused steps they replace, row by row and bit by bit."""

import pytest
import torch
from torch import nn

from spacte_core.kernels.cpu.winograd_layers import WinogradLayer, library, takes_layer, to_winograd_layers
from spacte_core.kernels.graph.fusing import FusedConv, fuse
from spacte_core.kernels.graph.tracing import trace

needs_kernel = pytest.mark.skipif(library() is None, reason="neither AVX-512 nor AVX2, or no compiler")


def a_step(channels_in: int, channels: int, *, bias: bool = True, relu: bool = True) -> FusedConv:
    torch.manual_seed(0)
    step = FusedConv(nn.Conv2d(channels_in, channels, 3, padding=1, bias=bias).requires_grad_(requires_grad=False))
    step.relu = relu
    return step


def maps(*shape: int, seed: int = 1) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.contiguous(memory_format=torch.channels_last)


@needs_kernel
@pytest.mark.parametrize(
    ("channels_in", "channels", "height", "width"),
    [(24, 64, 31, 31), (256, 40, 7, 7), (16, 128, 14, 9), (64, 24, 3, 3)],
)
@pytest.mark.parametrize(("residual", "relu", "bias"), [(False, True, True), (True, True, True), (True, False, False)])
def test_it_is_the_fused_step(
    channels_in: int, channels: int, height: int, width: int, residual: bool, relu: bool, bias: bool
) -> None:
    step = a_step(channels_in, channels, bias=bias, relu=relu)
    x = maps(5, channels_in, height, width)
    other = maps(5, channels, height, width, seed=2) if residual else None
    wanted = step.double()(x.double(), None if other is None else other.double())
    kept = None if other is None else other.clone()
    y = WinogradLayer(step.float())(x, other)
    assert ((y - wanted).norm() / wanted.norm()).item() < 3e-6
    assert y.is_contiguous(memory_format=torch.channels_last)
    if other is not None and kept is not None:
        assert torch.equal(other, kept), "what others read is left alone"


@needs_kernel
def test_it_writes_over_what_nobody_reads_again() -> None:
    step = a_step(64, 128)
    x, other = maps(3, 64, 9, 9), maps(3, 128, 9, 9, seed=2)
    apart = WinogradLayer(step)(x, other.clone())
    step.in_place = True
    y = WinogradLayer(step)(x, other)
    assert y.data_ptr() == other.data_ptr()
    assert torch.equal(y, apart)


@needs_kernel
def test_a_row_is_its_own_whatever_its_batch_threads_and_layout() -> None:
    layer, x = WinogradLayer(a_step(40, 72)), maps(33, 40, 13, 13)
    threads = torch.get_num_threads()
    try:
        results: list[torch.Tensor] = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(layer(x))
            results.append(torch.cat([layer(row) for row in x.split(1)]))
            results.append(torch.cat([layer(rows.contiguous()) for rows in x.split(7)]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(result, results[0]) for result in results)


@needs_kernel
def test_what_fits_no_chain_comes_layer_by_layer() -> None:
    torch.manual_seed(0)
    sizes = [(32, 32, 1), (32, 32, 1), (32, 96, 1), (96, 96, 2)]
    layers = ((nn.Conv2d(into, out, 3, stride, 1), nn.ReLU()) for into, out, stride in sizes)
    net = nn.Sequential(*(part for layer in layers for part in layer)).eval().requires_grad_(requires_grad=False)
    x = maps(2, 32, 12, 12)
    graph = trace(net)
    assert graph is not None
    wanted = graph(x)
    fused = fuse(graph)
    assert to_winograd_layers(fused, x)
    kinds = [type(module) for module in fused.modules() if isinstance(module, WinogradLayer | FusedConv)]
    assert kinds.count(WinogradLayer) == 3
    assert kinds.count(FusedConv) == 1, "a stride"
    assert torch.allclose(fused(x), wanted, atol=1e-5)


def test_maps_that_save_too_little() -> None:
    conv = nn.Conv2d(16, 16, 3, padding=1)
    taken = {side: takes_layer(conv, torch.Size((1, 16, side, side))) for side in (1, 2, 3, 4, 5, 7)}
    assert not takes_layer(conv, torch.Size((16, 8, 8))), "no batch"
    assert taken == {1: False, 2: False, 3: True, 4: True, 5: True, 7: True}
