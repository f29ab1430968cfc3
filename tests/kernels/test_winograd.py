"""Promise: Winograd's convolutions are the plain ones within a few roundings, row by row and bit by bit."""

import pytest
import torch
from tests.small_engine import convolutions, on_threads
from torch import nn
from torch.nn import functional

from spacte_core.forms import logits_of, plain
from spacte_core.kernels.cpu import winograd, winograd_layers
from spacte_core.kernels.cpu.winograd import WinogradChain, to_winograd, winograd_library
from spacte_core.kernels.graph.fusing import FusedConv, fuse, fused_convs
from spacte_core.kernels.graph.tracing import trace
from spacte_workers.engine import forms as build
from spacte_workers.engine.self_checks import is_one_function

pytestmark = pytest.mark.slow

needs_kernel = pytest.mark.skipif(winograd_library() is None, reason="neither AVX-512 nor AVX2, or no compiler")


@pytest.fixture(autouse=True)
def two_threads():
    yield from on_threads(2)


def a_step(channels_in, channels, *, bias=True, relu=True, seed=0):
    torch.manual_seed(seed)
    conv = nn.Conv2d(channels_in, channels, 3, padding=1, bias=bias).requires_grad_(requires_grad=False)
    nn.init.normal_(conv.weight, std=(2 / (9 * channels_in)) ** 0.5)
    step = FusedConv(conv)
    step.relu = relu
    return step


def maps(rows, channels, height, width, seed=1):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, channels, height, width, generator=generator).relu()
    return values.contiguous(memory_format=torch.channels_last)


def exact(step, x, other=None):
    """The step in float64."""
    bias = None if step.conv.bias is None else step.conv.bias.double()
    y = functional.conv2d(x.double(), step.conv.weight.double(), bias, padding=1)
    y = y if other is None else y + other.double()
    return y.relu() if step.relu else y


def error(y, wanted):
    return ((y.double() - wanted).square().mean() / wanted.square().mean()).sqrt().item()


@needs_kernel
@pytest.mark.parametrize("rows", [1, 7, 32])
@pytest.mark.parametrize(
    ("channels_in", "channels", "height", "width"),
    [(16, 16, 32, 32), (32, 32, 16, 16), (64, 64, 8, 8), (48, 32, 12, 20), (16, 64, 4, 4), (128, 16, 4, 60)],
)
@pytest.mark.parametrize(("residual", "relu", "bias"), [(False, True, True), (True, True, True), (True, False, False)])
def test_values(rows, channels_in, channels, height, width, residual, relu, bias):
    step = a_step(channels_in, channels, relu=relu, bias=bias)
    x = maps(rows, channels_in, height, width)
    other = maps(rows, channels, height, width, seed=2) if residual else None
    given = [x] if other is None else [x, other]
    before = [value.clone() for value in given]
    operands = [(0, 1 if residual else None)]
    made = WinogradChain([step], operands, [(height, width)], len(given), winograd_library())(*given)
    wanted = exact(step, x, other)
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert error(made, wanted) < 1.2e-6
    assert error(made, wanted) < 5 * error(step(x, other), wanted) + 1e-7
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


class Tangled(nn.Module):
    """Results that are read late, twice, by a step that adds what it convolves, and outside of their chain."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.first = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(7))
        self.down = nn.Conv2d(16, 32, 3, 2, 1)
        self.short = nn.Conv2d(16, 32, 1, 2)
        self.second = nn.ModuleList(nn.Conv2d(32, 32, 3, padding=1) for _ in range(3))
        self.odd = nn.Conv2d(32, 8, 3, padding=1)

    def forward(self, x):
        a, b, c, d, e, f, g = self.first
        h = torch.relu(self.stem(x))
        early = torch.relu(a(h))
        h = torch.relu(b(early) + h)
        h = torch.relu(c(h) + h)
        h = torch.relu(e(torch.relu(d(h))) + early)
        kept = torch.relu(f(h))
        h = g(kept) + h
        late = torch.relu(self.down(h))
        p, q, r = self.second
        h = torch.relu(p(late) + self.short(h))
        h = torch.relu(r(torch.relu(q(h))) + h)
        return self.odd(h).mean((2, 3)), kept.mean()


@needs_kernel
def test_a_network_of_chains_keeps_the_function():
    torch.manual_seed(0)
    net = Tangled().eval().requires_grad_(requires_grad=False)
    rows = maps(9, 3, 16, 16)
    graph = fuse(trace(net))
    steps = len(fused_convs(graph))
    assert to_winograd(graph, rows[:2])
    chains = [module for module in graph.modules() if isinstance(module, WinogradChain)]
    assert [len(chain.layers) for chain in chains] == [5, 1, 1, 3]  # only the last result may be read elsewhere
    assert len(fused_convs(graph)) == steps - 10
    for made, wanted in zip(graph(rows), net.double()(rows.double()), strict=True):
        torch.testing.assert_close(made.double(), wanted, rtol=1e-4, atol=1e-5)
    assert not to_winograd(graph, rows[:2])


@needs_kernel
def test_few_maps_serve_a_long_chain():
    step = a_step(16, 16)
    operands = [(0, None)]
    for i in range(1, 20, 2):  # blocks of two layers, each with the block's input as residual
        operands += [(i, None), (i + 1, i)]
    chain = WinogradChain([step] * len(operands), operands, [(8, 8)] * len(operands), 1, winograd_library())
    assert len(chain.inner) == 2
    x = maps(3, 16, 8, 8)
    values = [x.double()]
    for source, other in operands:
        values.append(exact(step, values[source], None if other is None else values[other]))
    assert error(chain(x), values[-1]) < 1e-5


@needs_kernel
def test_a_row_is_its_own():
    """Bit for bit: whatever its neighbours, its place, the size of the batch and the number of threads."""
    first, second = a_step(32, 64), a_step(64, 64, seed=1)
    operands = [(0, None), (1, None), (2, 1)]
    chain = WinogradChain([first, second, second], operands, [(8, 12)] * 3, 1, winograd_library())
    x = maps(101, 32, 8, 12)
    together = chain(x)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    assert torch.equal(chain(x[order].contiguous(memory_format=torch.channels_last)), together[order])
    for start, size in ((0, 1), (3, 2), (17, 31), (5, 64)):
        assert torch.equal(chain(x[start : start + size]), together[start : start + size])
    for threads in (1, 3):
        torch.set_num_threads(threads)
        assert torch.equal(chain(x), together)
    x[0] = torch.nan
    spoilt = chain(x)
    assert spoilt[0].isnan().all()
    assert torch.equal(spoilt[1:], together[1:])


@pytest.fixture
def network():
    return convolutions()


@needs_kernel
def test_the_form_is_one_function_and_comes_first(network):
    network, rows = network
    with torch.inference_mode():
        form = next(build.forms(network, "fp32", 16, rows))
        assert form.name == "winograd"
        assert is_one_function(form, rows)
        reference = logits_of(plain(network, 16), rows)
        torch.testing.assert_close(logits_of(form, rows), reference, rtol=1e-4, atol=1e-5)
        assert "winograd" not in [form.name for form in build.forms(network, "bf16", 16, rows)]


def test_without_the_kernel_the_other_forms_are_there(network, monkeypatch):
    network, rows = network
    monkeypatch.setattr(winograd_layers, "compile_library", lambda *_, **__: None)
    with torch.inference_mode():
        names = [form.name for form in build.forms(network, "fp32", 16, rows)]
    assert names == ["onednn", "folded", "plain"]


@pytest.mark.parametrize(
    ("conv", "size"),
    [
        (nn.Conv2d(16, 16, 3, 2, 1), 8),
        (nn.Conv2d(16, 16, 3), 8),
        (nn.Conv2d(16, 16, 5, padding=1), 8),
        (nn.Conv2d(16, 16, 1), 8),
        (nn.Conv2d(16, 16, 3, padding=1, dilation=2), 8),
        (nn.Conv2d(16, 16, 3, padding=1, groups=2), 8),
        (nn.Conv2d(8, 16, 3, padding=1), 8),
        (nn.Conv2d(16, 48, 3, padding=1), 8),
        (nn.Conv2d(16, 16, 3, padding=1), 6),
        (nn.Conv2d(16, 16, 3, padding=1).double(), 8),
    ],
)
def test_other_layers_are_left_alone(conv, size):
    good, shape = FusedConv(nn.Conv2d(16, 16, 3, padding=1)), torch.Size((2, conv.in_channels, size, size))
    assert winograd.fits(good, torch.Size((2, 16, 8, 8)))
    assert not winograd.fits(FusedConv(conv), shape)
    assert not winograd.fits(conv, shape)
