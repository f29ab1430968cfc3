"""Promise: chains of float32 are the plain convolutions within a few roundings, and the same bits on every target.

What holds for chains of every kind of maps is in `test_chain.py` (values, residuals) and `test_chain_bits.py` (a row is
its own).
"""

from dataclasses import replace

import pytest
import torch
from tests.convolution_chains import a_chain, a_layer, exact, maps
from tests.kernels.test_inference import settled
from torch import nn
from torch.nn import functional

from spacte_core.forms import logits_of, plain
from spacte_core.kernels.cpu import targets, winograd_layers
from spacte_core.kernels.cpu.chain import ChainKernel, by_winograd, floats_to_chains
from spacte_core.kernels.cpu.targets import TARGETS, target_for
from spacte_core.kernels.graph.fusing import fuse, fused_convs
from spacte_core.kernels.graph.tracing import trace
from spacte_core.models import ModelConfig
from spacte_core.models import build as build_model
from spacte_workers.engine import forms as build
from spacte_workers.engine.calibration import noisy_rows
from spacte_workers.engine.decomposition import decompose
from spacte_workers.engine.self_checks import is_one_function

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("two_threads")]

FLOATS = torch.float32
HERE = [target for target in TARGETS if target.unit is not None and target.library(FLOATS) is not None]
needs_kernel = pytest.mark.skipif(not HERE, reason="no target for chains of float32 here, or no compiler")


def error(y, wanted):
    return ((y.double() - wanted).square().mean() / wanted.square().mean()).sqrt().item()


def computed(layer, given, target):
    operands, shapes = [(0, len(given) - 1 or None)], [value.shape[1:] for value in given]
    return ChainKernel([layer], operands, shapes, FLOATS, target)(*given)


@needs_kernel
@pytest.mark.parametrize("rows", [1, 7, 33])
@pytest.mark.parametrize(
    ("channels_in", "channels", "height", "width"),
    [(16, 16, 32, 32), (32, 32, 16, 16), (64, 64, 8, 8), (48, 32, 12, 20), (16, 64, 4, 4), (20, 12, 5, 7)],
)
@pytest.mark.parametrize(("residual", "relu"), [(False, True), (True, True), (True, False)])
def test_values(rows, channels_in, channels, height, width, residual, relu):
    layer = a_layer(FLOATS, (channels_in, height, width), channels, relu=relu)
    given = [maps(FLOATS, rows, channels_in, height, width)]
    given += [maps(FLOATS, rows, channels, height, width, seed=2)] if residual else []
    wanted = exact(layer, *given)
    made = [computed(layer, given, target) for target in HERE]
    assert by_winograd(layer, FLOATS, HERE[0])
    padded = functional.conv2d(given[0], layer.weight_OIKK, layer.bias_O, padding=1)
    direct = padded + given[1] if residual else padded
    assert error(made[0], wanted) < 1.2e-6
    assert error(made[0], wanted) < 5 * error(direct.relu() if relu else direct, wanted) + 1e-7
    assert all(torch.equal(other, made[0]) for other in made[1:])


@needs_kernel
def test_all_targets_give_the_same_bits():
    """Of a chain with strided layers, residuals, pooling of halves and 1 x 1 layers."""
    layers, operands = a_chain(FLOATS)
    x = maps(FLOATS, 41, 16, 9, 12)
    made = [ChainKernel(layers, operands, [(16, 9, 12)], FLOATS, target)(x) for target in HERE]
    assert all(torch.equal(other, made[0]) for other in made[1:])


class Tangled(nn.Module):
    """Results that are read late, twice, by a step that adds what it convolves, and outside of their chain."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.first = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(7))
        self.down = nn.Conv2d(16, 32, 3, 2, 1)
        self.short = nn.Conv2d(16, 32, 1, 2)
        self.second = nn.ModuleList(nn.Conv2d(32, 32, 3, padding=1) for _ in range(3))
        self.odd = nn.Conv2d(32, 6, 3, padding=1)

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
    rows = maps(FLOATS, 9, 3, 16, 16)
    graph = fuse(trace(net))
    assert floats_to_chains(graph, rows[:2], FLOATS, HERE[0])
    chains = [module for module in graph.modules() if isinstance(module, ChainKernel)]
    assert [len(chain.layers) for chain in chains] == [6, 6]  # only the last result may be read elsewhere
    assert len(fused_convs(graph)) == 2  # one of six channels, and one whose result is read elsewhere
    for made, wanted in zip(graph(rows), net.double()(rows.double()), strict=True):
        torch.testing.assert_close(made.double(), wanted, rtol=1e-4, atol=1e-5)
    assert not floats_to_chains(graph, rows[:2], FLOATS, HERE[0])


@needs_kernel
def test_few_maps_serve_a_long_chain():
    layer = a_layer(FLOATS, (16, 8, 8), 16)
    operands = [(0, None)]
    for i in range(1, 20, 2):  # blocks of two layers, each with the block's input as residual
        operands += [(i, None), (i + 1, i)]
    chain = ChainKernel([layer] * len(operands), operands, [(16, 8, 8)], FLOATS, HERE[0])
    assert len(chain.inner) <= 4
    x = maps(FLOATS, 3, 16, 8, 8)
    values = [x.double()]
    for source, other in operands:
        values.append(exact(layer, values[source], None if other is None else values[other]))
    assert error(chain(x), values[-1]) < 1e-5


@needs_kernel
def test_a_row_that_is_no_number_spoils_no_other():
    layers, operands = a_chain(FLOATS)
    chain = ChainKernel(layers, operands, [(16, 9, 12)], FLOATS, HERE[0])
    x = maps(FLOATS, 40, 16, 9, 12)
    together = chain(x)
    x[0] = torch.nan
    spoilt = chain(x)
    assert spoilt[0].isnan().all()
    assert torch.equal(spoilt[1:], together[1:])


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


@needs_kernel
def test_a_resnet_is_the_same_function_for_every_batch_and_target(monkeypatch):
    config = ModelConfig(arch="cifar_resnet20", heads=2, num_classes=10, input_shape=(3, 32, 32))
    net, rows = settled(build_model(config)), noisy_rows((3, 32, 32), 0.25, 40)
    found = []
    for target in HERE:
        monkeypatch.setenv(targets.VARIABLE, target.name)
        classifier = decompose(net, rows[:2], 10)
        with torch.inference_mode():
            form = next(build.forms(classifier, "fp32", 40, rows, only="winograd"))
            assert form.any_batch
            found += [logits_of(form, rows), logits_of(replace(form, batch=7), rows)]
    assert all(torch.equal(other, found[0]) for other in found[1:])


class RowsMeet(nn.Module):
    """A network of whose steps one depends on the size of the batch."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
        self.rest = nn.Sequential(
            nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 5)
        )

    def forward(self, x):
        y = self.layers(x)
        return self.rest(y + y.size(0))


@needs_kernel
def test_a_network_whose_rows_meet_keeps_its_batch():
    torch.manual_seed(0)
    rows = noisy_rows((3, 8, 8), 0.25, 32)
    classifier = decompose(RowsMeet().eval().requires_grad_(requires_grad=False), rows[:2], 5)
    with torch.inference_mode():
        form = next(build.forms(classifier, "fp32", 16, rows, only="winograd"))
    assert not form.any_batch


@needs_kernel
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_another_default_type_changes_no_vote(precision):
    """Set after the load: what the kernels write is float32 all the same."""
    config = ModelConfig(arch="cifar_resnet20", heads=2, num_classes=10, input_shape=(3, 32, 32))
    rows = noisy_rows((3, 32, 32), 0.25, 32)
    classifier = decompose(settled(build_model(config)), rows[:2], 10)
    with torch.inference_mode():
        form = next(build.forms(classifier, precision, 16, rows))
        wanted, before = logits_of(form, rows), torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            assert torch.equal(logits_of(form, rows), wanted)
        finally:
            torch.set_default_dtype(before)


def test_matrix_units_have_the_vector_units_beside_them(monkeypatch):
    """Held to them, float32 is computed by AVX-512, which every processor with AMX has."""
    monkeypatch.setattr(targets, "forced", lambda: "amx")
    found = target_for(FLOATS)
    assert found is None or found.name == "avx512"


def test_without_the_kernels_the_other_forms_are_there(network, monkeypatch):
    network, rows = network
    monkeypatch.setattr(winograd_layers, "library", lambda: None)
    monkeypatch.setattr(targets, "compile_library", lambda *_, **__: None)
    with torch.inference_mode():
        names = [form.name for form in build.forms(network, "fp32", 16, rows)]
    assert names == ["onednn", "folded", "plain"]


@needs_kernel
def test_layers_that_win_nothing_are_computed_directly():
    """Few channels, whose transforms cost more than their products; in bfloat16, whose products are half as many."""
    narrow, wide = a_layer(FLOATS, (2, 8, 8), 8), a_layer(FLOATS, (32, 16, 16), 32)
    assert [by_winograd(layer, FLOATS, HERE[0]) for layer in (narrow, wide)] == [False, True]
    avx512 = next(target for target in TARGETS if target.name == "avx512")
    sixteen, small = a_layer(FLOATS, (16, 32, 32), 16), a_layer(FLOATS, (256, 3, 3), 256)
    taken = [by_winograd(layer, torch.bfloat16, avx512) for layer in (sixteen, wide, small)]
    assert taken == [False, True, False]
    assert not by_winograd(a_layer(FLOATS, (32, 8, 8), 32, stride=2), FLOATS, HERE[0])
