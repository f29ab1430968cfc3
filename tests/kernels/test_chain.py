"""Promise: every target computes the plain convolutions up to one rounding of a result, row by row and bit by bit.

On codes all targets give the same bits, the matrix units' too; where there are none, tiles in plain C++ stand in.
"""

import itertools
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.small_engine import convolutions, on_threads
from torch import nn
from torch.nn import functional

from spacte_core.forms import logits_of, plain
from spacte_core.hardware import computes_bf16
from spacte_core.kernels import inference
from spacte_core.kernels.cpu import chain as chain_module
from spacte_core.kernels.cpu import targets
from spacte_core.kernels.cpu.chain import ChainKernel, Layer, codes_to_chains, floats_to_chains
from spacte_core.kernels.cpu.targets import TARGETS, VARIABLE, CpuTargetError, target_for
from spacte_core.kernels.graph.fusing import fuse, fused_convs
from spacte_core.kernels.graph.tracing import trace
from spacte_core.kernels.int8.layers import Encode, Int8Conv, MeanOfCodes, codes_for, pack
from spacte_core.kernels.int8.quantiser import Quantiser
from spacte_core.kernels.int8.ranges import RangeObserver
from spacte_core.kernels.int8.rounding import WeightRounder
from spacte_workers.engine import forms as build
from spacte_workers.engine import peak_rates as ceilings
from spacte_workers.engine.calibration import noisy_rows
from spacte_workers.engine.decomposition import decompose
from spacte_workers.engine.self_checks import is_one_function

pytestmark = pytest.mark.slow

AMX = TARGETS[0]
EMULATED = replace(
    AMX,
    name="emulated amx",
    needs=dict.fromkeys(AMX.needs, frozenset({"avx512bw", "avx512_bf16"})),
    options=("-march=native", "-include", str(Path(__file__).with_name("emulated_amx.h"))),
)
KINDS = [
    pytest.param(
        target,
        dtype,
        id=f"{target.name}-{str(dtype)[6:]}",
        marks=pytest.mark.skipif(target.library(dtype) is None, reason=f"no {target.name} here, or no compiler"),
    )
    for target in (*TARGETS, EMULATED)
    for dtype in target.needs
]
every_kind = pytest.mark.parametrize(("target", "dtype"), KINDS)


def of(dtype):
    """The targets for such maps."""
    chosen = [param for param in KINDS if param.values[1] == dtype]
    values = [pytest.param(param.values[0], id=param.values[0].name, marks=param.marks) for param in chosen]
    return pytest.mark.parametrize("target", values)


here = [target for target in (*TARGETS, EMULATED) if target.library(torch.uint8) is not None]


@pytest.fixture(autouse=True)
def two_threads():
    yield from on_threads(2)


def maps(dtype, rows, channels, height, width, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, channels, height, width)
    if dtype == torch.uint8:
        values = torch.randint(0, 256, shape, generator=generator, dtype=dtype)
    else:
        values = torch.randn(shape, generator=generator).to(dtype)
    return values.contiguous(memory_format=torch.channels_last)


def a_layer(dtype, source_shape, channels, *, kernel=3, stride=1, relu=True, border=0, seed=0, padding=None):
    generator = torch.Generator().manual_seed(seed)
    inputs, height, width = source_shape
    padding = kernel // 2 if padding is None else padding
    shape = (channels, *((side + 2 * padding - kernel) // stride + 1 for side in (height, width)))
    size = (channels, inputs, kernel, kernel)
    spread = (inputs * kernel * kernel) ** -0.5
    bias_O = torch.randn(channels, generator=generator)
    if dtype == torch.uint8:
        weight = torch.randint(-127, 128, size, generator=generator, dtype=torch.int8)
        scale_O = (0.5 + torch.rand(channels, generator=generator)) * spread / 127
        return Layer(weight, scale_O, bias_O * 50 + 60, 0.375, stride, relu, source_shape, shape, border, padding)
    weight = (torch.randn(size, generator=generator) * spread).to(dtype)
    return Layer(weight, None, bias_O, 1.0, stride, relu, source_shape, shape, padding=padding)


def exact(layer, x, other=None):
    """The layer in float64, before its result is rounded."""
    codes = layer.scale_O is not None
    padded = functional.pad(x.double(), (layer.padding,) * 4, value=layer.border)
    y = functional.conv2d(padded, layer.weight_OIKK.double(), stride=layer.stride)
    if codes:
        y = y * layer.scale_O.double()[:, None, None]
    y = y + layer.bias_O.double()[:, None, None]
    y = y if other is None else y + other.double() * layer.other_scale
    return y.clamp(0, 255) if codes else y.relu() if layer.relu else y


def assert_rounded(made, wanted):
    if made.dtype == torch.uint8:  # a tie may fall either way
        assert (made.double() - wanted).abs().max() < 0.501
    else:
        torch.testing.assert_close(made.double(), wanted, rtol=2**-8, atol=2e-5)


@every_kind
@pytest.mark.parametrize(
    ("channels_in", "channels", "height", "width", "kernel", "stride"),
    [
        (16, 16, 32, 32, 3, 1), (16, 32, 32, 32, 3, 2), (16, 32, 32, 32, 1, 2), (32, 32, 16, 16, 3, 1),
        (32, 64, 16, 16, 3, 2), (64, 64, 8, 8, 3, 1), (3, 16, 32, 32, 3, 1), (1, 32, 8, 8, 3, 1),
        (5, 48, 7, 9, 3, 1), (48, 16, 9, 7, 3, 2), (128, 16, 5, 3, 1, 1), (16, 96, 1, 1, 3, 1), (20, 16, 6, 5, 3, 3),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("residual", "relu", "rows"), [(False, True, 7), (True, True, 33), (True, False, 16)])
def test_values(target, dtype, channels_in, channels, height, width, kernel, stride, residual, relu, rows):
    border = 0 if dtype != torch.uint8 else 113
    layer = a_layer(
        dtype, (channels_in, height, width), channels, kernel=kernel, stride=stride, relu=relu, border=border
    )
    x = maps(dtype, rows, channels_in, height, width)
    other = maps(dtype, rows, *layer.shape, seed=2) if residual else None
    given = [x] if other is None else [x, other]
    before = [value.clone() for value in given]
    operands = [(0, 1 if residual else None)]
    made = ChainKernel([layer], operands, [value.shape[1:] for value in given], dtype, target)(*given)
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert made.shape == (rows, *layer.shape)
    assert_rounded(made, exact(layer, x, other))
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


@every_kind
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(2, 1, 0), (3, 1, 0), (2, 2, 0), (2, 2, 1), (3, 2, 0), (1, 3, 0)]
)
@pytest.mark.parametrize(
    ("channels_in", "channels", "height", "width"), [(3, 32, 12, 9), (32, 16, 5, 7), (16, 48, 3, 3)]
)
def test_kernels_and_paddings(target, dtype, kernel, stride, padding, channels_in, channels, height, width):
    options = {"kernel": kernel, "stride": stride, "padding": padding, "border": 0 if dtype != torch.uint8 else 201}
    layer = a_layer(dtype, (channels_in, height, width), channels, **options)
    x = maps(dtype, 18, channels_in, height, width)
    made = ChainKernel([layer], [(0, None)], [x.shape[1:]], dtype, target)(x)
    assert made.shape == (18, *layer.shape)
    assert_rounded(made, exact(layer, x))


@every_kind
def test_one_value_as_source_and_residual(target, dtype):
    layer = a_layer(dtype, (16, 5, 6), 16, border=9 if dtype == torch.uint8 else 0)
    x = maps(dtype, 20, 16, 5, 6)
    made = ChainKernel([layer], [(0, 0)], [(16, 5, 6)], dtype, target)(x)
    assert_rounded(made, exact(layer, x, x))


@of(torch.uint8)
def test_what_no_graph_has_is_refused(target):
    dtype = torch.uint8
    average = Layer(None, None, None, 1.0, 1, False, (16, 4, 4), (16, 1, 1))
    with pytest.raises(ValueError, match="ends a chain"):
        ChainKernel([average, average], [(0, None), (0, None)], [(16, 4, 4)], dtype, target)
    layers = [a_layer(dtype, (16, 4, 4), 16, border=code) for code in (3, 4)]
    with pytest.raises(ValueError, match="one code of zero"):
        ChainKernel(layers, [(0, None), (0, 1)], [(16, 4, 4)], dtype, target)
    with pytest.raises(ValueError, match="only an input of a chain"):
        ChainKernel(layers, [(0, None), (1, None)], [(16, 4, 4)], dtype, target)


def a_chain(dtype, shape=(16, 9, 12)):
    """Blocks of two layers with the block's input as residual, one that halves the map, and an average."""
    wide = (32, (shape[1] + 1) // 2, (shape[2] + 1) // 2)
    layers = [a_layer(dtype, shape, 16, seed=i) for i in range(5)]
    layers += [a_layer(dtype, shape, 32, stride=2, seed=5), a_layer(dtype, wide, 32, seed=6)]
    layers += [a_layer(dtype, shape, 32, stride=2, kernel=1, seed=7)]
    operands = [(0, None), (1, None), (2, 1), (3, None), (4, 3), (5, None), (6, None), (5, None)]
    layers += [a_layer(dtype, wide, 32, seed=8)]
    operands += [(7, 8)]
    return layers, operands


@every_kind
def test_a_chain_is_its_layers_one_by_one(target, dtype):
    """Each layer by itself is exact to one rounding, and together they are the same bits."""
    layers, operands = a_chain(dtype)
    x = maps(dtype, 37, 16, 9, 12)
    values = [x]
    for layer, (source, other) in zip(layers, operands, strict=True):
        given = [values[source]] if other is None else [values[source], values[other]]
        alone = ChainKernel([layer], [(0, None if other is None else 1)], [v.shape[1:] for v in given], dtype, target)
        values.append(alone(*given))
    chain = ChainKernel(layers, operands, [(16, 9, 12)], dtype, target)
    assert torch.equal(chain(x), values[-1])
    # Two maps and the chain's input at full size, two at half; and where it does not lie as outside, the result.
    assert len(chain.inner) == 5 + (target.unit is not None)


@every_kind
def test_averages(target, dtype):
    average = Layer(None, None, None, 0.25 / 15, 1, False, (48, 5, 3), (48, 1, 1))
    x = maps(dtype, 19, 48, 5, 3)
    made = ChainKernel([average], [(0, None)], [(48, 5, 3)], dtype, target)(x)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, (x.double().mean((2, 3)) / 4).float(), rtol=1e-6, atol=1e-6)


@every_kind
def test_a_row_is_its_own(target, dtype):
    """Bit for bit: whatever its neighbours, its place, the size of the batch and the number of threads."""
    layers, operands = a_chain(dtype)
    chain = ChainKernel(layers, operands, [(16, 9, 12)], dtype, target)
    x = maps(dtype, 101, 16, 9, 12)
    together = chain(x)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    assert torch.equal(chain(x[order].contiguous(memory_format=torch.channels_last)), together[order])
    for start, size in ((0, 1), (3, 2), (17, 31), (5, 64)):
        assert torch.equal(chain(x[start : start + size]), together[start : start + size])
    for threads in (1, 3):
        torch.set_num_threads(threads)
        assert torch.equal(chain(x), together)
    if dtype != torch.uint8:
        x[20] = torch.nan
        spoilt = chain(x)
        assert spoilt[20].isnan().all()
        assert torch.equal(spoilt[:20], together[:20])
        assert torch.equal(spoilt[21:], together[21:])


@of(torch.uint8)
def test_inputs_of_another_kind_are_refused(target):
    chain = ChainKernel([a_layer(torch.uint8, (16, 4, 4), 16)], [(0, None)], [(16, 4, 4)], torch.uint8, target)
    with pytest.raises(ValueError, match="is not the chain's"):
        chain(torch.zeros(2, 16, 4, 4))
    with pytest.raises(ValueError, match="is not the chain's"):
        chain(torch.zeros(2, 16, 4, 5, dtype=torch.uint8))


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "dtype"), [("int8", torch.uint8), ("bf16", torch.bfloat16)])
def test_no_product_of_the_library_is_faster_than_the_bare_ones(precision, dtype, monkeypatch):
    bare = chain_module.bare_products(dtype)
    if bare is None:
        pytest.skip("no target for such maps here")
    if targets.forced() not in (None, names_here(dtype)[0]):
        pytest.skip("the library is not held to the target that is forced")
    torch.set_num_threads(1)
    monkeypatch.setattr(ceilings.time, "perf_counter", time.thread_time)  # others may be at work
    bare = chain_module.bare_products(dtype)
    device = torch.device("cpu")
    best = max(ceilings._rate(bare, bare(), device) for _ in range(5))
    assert 1e10 < best < 1e14
    with monkeypatch.context() as patched:
        patched.setattr(chain_module, "bare_products", lambda _: None)
        library = ceilings.multiply_adds_per_second(precision, device)
    assert library < 1.1 * best
    # Others that share the core may take half of it for as long as one look lasts.
    assert max(ceilings.multiply_adds_per_second(precision, device) for _ in range(3)) > 0.5 * best


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


def chains_of(graph):
    return [len(module.layers) for module in graph.modules() if isinstance(module, ChainKernel)]


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


@pytest.fixture
def network():
    return convolutions()


def names_here(dtype):
    """What `SPACTE_CPU` may be on this machine for such maps."""
    return [target.name for target in TARGETS if target.library(dtype) is not None]


@pytest.mark.parametrize(("precision", "error"), [("bf16", 0.01), ("int8", 0.05)])
def test_the_form_of_each_target_is_one_function_and_comes_first(network, monkeypatch, precision, error):
    network, rows = network
    names = names_here(torch.uint8 if precision == "int8" else torch.bfloat16)
    with torch.inference_mode():
        reference = logits_of(plain(network, 16), rows)
        spread = (reference - reference.mean(0)).square().mean().sqrt()
        for name in names:
            monkeypatch.setenv(VARIABLE, name)
            form = next(build.forms(network, precision, 16, rows))
            assert form.name == ("amx" if name == "amx" else f"chain_{name}")
            assert is_one_function(form, rows)
            assert (logits_of(form, rows) - reference).square().mean().sqrt() < error * spread


def test_the_best_target_is_taken_unless_another_is_asked_for(network, monkeypatch):
    network, rows = network
    monkeypatch.delenv(VARIABLE, raising=False)
    names = names_here(torch.uint8)
    if len(names) < 2:
        pytest.skip("one target here, or none")
    assert target_for(torch.uint8).name == names[0]
    assert target_for(torch.uint8, f"chain_{names[-1]}").name == names[-1]
    with torch.inference_mode():
        assert [form.name for form in build.forms(network, "int8", 16, rows)] == [target_for(torch.uint8).form, "int8"]
        assert next(build.forms(network, "int8", 16, rows, only=f"chain_{names[-1]}")).name == f"chain_{names[-1]}"
    monkeypatch.setenv(VARIABLE, names[-1])
    assert target_for(torch.uint8).name == names[-1]
    assert target_for(torch.uint8, target_for(torch.uint8).form).name == names[-1]
    assert target_for(torch.uint8, "chain_avx512" if names[-1] != "avx512" else "amx") is None


@pytest.mark.parametrize("name", ["abacus", "chain_avx2"])
def test_a_target_that_is_not_here_is_refused(monkeypatch, name):
    monkeypatch.setenv(VARIABLE, name)
    with pytest.raises(CpuTargetError, match=f"SPACTE_CPU is '{name}'"):
        target_for(torch.uint8)


@pytest.mark.parametrize(("precision", "names"), [("bf16", ["onednn", "folded"]), ("int8", ["int8"])])
def test_without_the_kernel_the_other_forms_are_there(network, monkeypatch, precision, names):
    network, rows = network
    if precision == "bf16" and not computes_bf16(rows.device):
        names = ["folded"]  # oneDNN has none either
    monkeypatch.setattr(targets, "compile_library", lambda *_, **__: None)
    with torch.inference_mode():
        assert [form.name for form in build.forms(network, precision, 16, rows)] == names


def test_a_system_that_refuses_the_tiles(monkeypatch, caplog):
    class Refusing:
        def spacte_amx_allowed(self):
            return 0

    monkeypatch.setattr(targets, "compile_library", lambda *_, **__: Refusing())
    assert replace(AMX, needs={torch.uint8: frozenset()}).library(torch.uint8) is None
    assert "signal stack" in caplog.text


@pytest.mark.skipif(len(here) < 2, reason="one target here, or none")
@pytest.mark.parametrize("relu", [False, True])
def test_codes_are_the_same_bits_on_every_target(relu):
    """Sums of codes are exact, and what follows them is the same arithmetic in every lane."""
    generator = torch.Generator().manual_seed(5)
    geometries = itertools.product((3, 16, 24, 64), (16, 32, 48), (1, 3), (1, 2), ((5, 7), (8, 8), (9, 32)))
    for number, (inputs, channels, kernel, stride, side) in enumerate(geometries):
        source = (inputs, *side)
        layer = a_layer(torch.uint8, source, channels, kernel=kernel, stride=stride, border=77, seed=number, relu=relu)
        x = torch.randint(0, 256, (19, *source), generator=generator, dtype=torch.uint8)
        other = torch.randint(0, 256, (19, *layer.shape), generator=generator, dtype=torch.uint8)
        for given in ([x], [x, other]):
            operands, inputs_of = [(0, len(given) - 1 or None)], [value.shape[1:] for value in given]
            made = [ChainKernel([layer], operands, inputs_of, torch.uint8, target)(*given) for target in here]
            assert all(torch.equal(made[0], result) for result in made[1:]), (number, len(given))


@pytest.mark.skipif(len(here) < 2, reason="one target here, or none")
def test_a_chain_of_codes_and_its_averages_are_the_same_bits_on_every_target():
    layers, operands = a_chain(torch.uint8)
    average = Layer(None, None, None, 0.1, 1, False, layers[-1].shape, (32, 1, 1))
    x = maps(torch.uint8, 37, 16, 9, 12)
    for steps, taken in ((layers, operands), ([*layers, average], [*operands, (len(layers), None)])):
        made = [ChainKernel(steps, taken, [(16, 9, 12)], torch.uint8, target)(x) for target in here]
        assert all(torch.equal(made[0], result) for result in made[1:])


@every_kind
def test_every_batch_size_gives_the_same_bits(target, dtype):
    layers, operands = a_chain(dtype, (16, 4, 5))
    chain = ChainKernel(layers, operands, [(16, 4, 5)], dtype, target)
    x = maps(dtype, 256, 16, 4, 5)
    torch.set_num_threads(1)
    together = chain(x)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for size in (*range(1, 36), 63, 64, 65, 127, 128, 200, 255, 256):
            start = (size * 37) % (257 - size)
            assert torch.equal(chain(x[start : start + size]), together[start : start + size]), (size, threads)


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
