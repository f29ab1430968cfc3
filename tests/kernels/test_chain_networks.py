"""Promise: layers of a network become chains where the kernel knows them, and the network's function stays."""

import pytest
import torch
from tests.convolution_chains import AMX, chains_of, of
from torch import nn

from spacte_core.forms import logits_of, plain
from spacte_core.kernels import inference
from spacte_core.kernels.cpu import chain as chain_module
from spacte_core.kernels.cpu.chain import codes_to_chains, floats_to_chains
from spacte_core.kernels.cpu.targets import target_for
from spacte_core.kernels.graph.fusing import fuse, fused_convs
from spacte_core.kernels.graph.tracing import trace
from spacte_core.kernels.int8.layers import Encode, Int8Conv, MeanOfCodes, codes_for, pack
from spacte_core.kernels.int8.quantiser import Quantiser
from spacte_core.kernels.int8.ranges import RangeObserver
from spacte_core.kernels.int8.rounding import WeightRounder
from spacte_workers.engine import forms as build
from spacte_workers.engine.calibration import noisy_rows
from spacte_workers.engine.decomposition import decompose

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("two_threads")]


class Tangled(nn.Module):
    """Results that are read late, twice, and outside of their chain; layers that the kernel does not know."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.first = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(6))
        self.down, self.short = nn.Conv2d(16, 32, 3, 2, 1), nn.Conv2d(16, 32, 1, 2)
        self.second = nn.ModuleList(nn.Conv2d(32, 32, 3, padding=1) for _ in range(3))
        self.odd = nn.Conv2d(32, 32, 5, padding=2)
        self.fc = nn.Linear(32, 10)

    def forward(self, x):
        a, b, c, d, e, f = self.first
        h = torch.relu(self.stem(x))
        early = torch.relu(a(h))
        h = torch.relu(b(early) + h)
        h = torch.relu(c(h) + h)
        h = torch.relu(e(torch.relu(d(h))) + early)
        h = torch.relu(f(h) + h)
        late = torch.relu(self.down(h))
        p, q, r = self.second
        h = torch.relu(p(late) + self.short(h))
        h = torch.relu(self.odd(h) + late)
        h = torch.relu(r(torch.relu(q(h))) + h)
        return self.fc(h.mean((2, 3)))


@pytest.fixture
def tangled():
    torch.manual_seed(0)
    net = Tangled().eval().requires_grad_(requires_grad=False)
    rows = torch.randn(32, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    return net, rows.contiguous(memory_format=torch.channels_last)


@of(torch.bfloat16)
def test_a_network_of_chains_keeps_the_function_in_bfloat16(target, tangled):
    net, rows = tangled
    graph = fuse(trace(net))
    assert floats_to_chains(graph, rows[:2], torch.bfloat16, target)
    assert sum(chains_of(graph)) == 13  # all but the 5 x 5 convolution; with the average
    assert len(fused_convs(graph)) == 1
    lower = inference._in_dtype(graph, torch.bfloat16)
    made, wanted = lower(rows.bfloat16().contiguous(memory_format=torch.channels_last)), net(rows)
    assert made.dtype == torch.float32
    spread = (wanted - wanted.mean(0)).square().mean().sqrt()
    assert (made - wanted).square().mean().sqrt() < 0.05 * spread


@of(torch.uint8)
def test_a_network_of_chains_keeps_the_function_on_codes(target, tangled):
    net, rows = tangled
    graph = fuse(trace(net))
    observer = RangeObserver(graph)
    observer.run(rows)
    ranges = observer.ranges()
    pixels = next(iter(graph.graph.nodes)).name
    given = codes_for(ranges[pixels].low, ranges[pixels].high)
    codes = Encode(given)(rows).contiguous(memory_format=torch.channels_last)
    rounder = WeightRounder(graph)
    rounder.round(rows)
    by_onednn, _ = Quantiser(graph, ranges, given, len(rows), rounder.rounded).run()
    pack(by_onednn)
    wanted = by_onednn(codes)
    graph, _ = Quantiser(graph, ranges, given, len(rows), rounder.rounded).run()
    assert codes_to_chains(graph, target)
    assert sum(chains_of(graph)) == 13
    pack(graph)
    assert [type(module) for module in graph.modules() if isinstance(module, Int8Conv | MeanOfCodes)] == [Int8Conv]
    spread = (wanted - wanted.mean(0)).square().mean().sqrt()
    assert (graph(codes) - wanted).square().mean().sqrt() < 0.02 * spread  # codes next to a tie may fall otherwise
    assert not codes_to_chains(graph, target)


class Aside(nn.Module):
    """An average on the way whose result nobody wants."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.Conv2d(inputs, 16, 3, padding=1) for inputs in (3, 16))
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        h = torch.relu(self.first(x))
        h.mean((2, 3))
        return self.fc(torch.relu(self.second(h)).mean((2, 3)))


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_value_that_is_not_used_stays_out_of_chains(precision):
    torch.manual_seed(0)
    net = Aside().eval().requires_grad_(requires_grad=False)
    rows = noisy_rows((3, 8, 8), 0.25, 64)
    with torch.inference_mode():
        network = decompose(net, rows[:2], 5)
        target = target_for(torch.uint8 if precision == "int8" else torch.bfloat16)
        if target is None:
            pytest.skip("no target for such maps here")
        form = next(build.forms(network, precision, 16, rows, only=target.form))
        wanted = logits_of(plain(network, 16), rows)
        spread = (wanted - wanted.mean(0)).square().mean().sqrt()
        assert (logits_of(form, rows) - wanted).square().mean().sqrt() < 0.1 * spread


@pytest.mark.parametrize(
    ("conv", "size"),
    [
        (nn.Conv2d(16, 16, 3, padding=2), 8),
        (nn.Conv2d(16, 16, 4), 8),
        (nn.Conv2d(16, 16, 2, padding=2), 8),
        (nn.Conv2d(16, 16, 5, padding=2), 8),
        (nn.Conv2d(16, 16, 1, padding=1), 8),
        (nn.Conv2d(16, 16, (1, 3), padding=(0, 1)), 8),
        (nn.Conv2d(16, 16, 3, (1, 2), 1), 8),
        (nn.Conv2d(16, 16, 3, padding=1, dilation=2), 8),
        (nn.Conv2d(16, 16, 3, padding=1, groups=2), 8),
        (nn.Conv2d(16, 8, 3, padding=1), 8),
        (nn.Conv2d(64, 16, 3, padding=1), 64),  # sixteen of them fill the cache
    ],
)
def test_other_layers_are_left_alone(conv, size):
    for module, fits in ((nn.Conv2d(16, 16, 3, padding=1), True), (conv, False)):
        rows = torch.zeros(2, module.in_channels, size if module is conv else 8, size if module is conv else 8)
        graph = fuse(trace(nn.Sequential(module, nn.ReLU())))
        seen = {}
        for node in graph.graph.nodes:
            seen[node] = torch.Size(rows.shape) if node.op == "placeholder" else None
        node, _ = fused_convs(graph)[0]
        assert (chain_module.layer_of_floats(graph, node, seen, torch.bfloat16, AMX) is not None) == fits
        observer = RangeObserver(graph)
        observer.run(rows + torch.arange(2.0)[:, None, None, None])
        rounder = WeightRounder(graph)
        rounder.round(rows)
        coded, _ = Quantiser(graph, observer.ranges(), codes_for(-1.0, 1.0), 2, rounder.rounded).run()
        step = next(node for node in coded.graph.nodes if str(node.target).endswith("int8_fused"))
        assert (chain_module.layer_of_codes(coded, step, AMX) is not None) == fits
