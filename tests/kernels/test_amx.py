"""Promise: matrix units compute the plain convolutions up to one rounding of a result, row by row and bit by bit."""

import pytest
import torch
from tests.small_engine import convolutions, on_threads
from torch import nn
from torch.nn import functional

from spacte_core.forms import logits_of, plain
from spacte_core.kernels import inference
from spacte_core.kernels.cpu import amx
from spacte_core.kernels.cpu.amx import AmxChain, Layer, amx_library, codes_to_amx, floats_to_amx
from spacte_core.kernels.graph.folding import trace
from spacte_core.kernels.graph.fusing import fuse, fused_convs
from spacte_core.kernels.int8.layers import Encode, Int8Conv, MeanOfCodes, codes_for
from spacte_core.kernels.int8.quantiser import Quantiser
from spacte_core.kernels.int8.ranges import RangeObserver
from spacte_core.kernels.int8.rounding import WeightRounder
from spacte_workers.engine import forms as build
from spacte_workers.engine import peak_rates as ceilings
from spacte_workers.engine.calibration import noisy_rows
from spacte_workers.engine.decomposition import decompose
from spacte_workers.engine.self_checks import is_one_function

needs_kernel = pytest.mark.skipif(amx_library() is None, reason="no AMX, or no compiler")

DTYPES = [torch.uint8, torch.bfloat16]


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


def a_layer(dtype, source_shape, channels, *, kernel=3, stride=1, relu=True, border=0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs, height, width = source_shape
    shape = (channels, (height - 1) // stride + 1, (width - 1) // stride + 1)
    size = (channels, inputs, kernel, kernel)
    spread = (inputs * kernel * kernel) ** -0.5
    bias_O = torch.randn(channels, generator=generator)
    if dtype == torch.uint8:
        weight = torch.randint(-127, 128, size, generator=generator, dtype=torch.int8)
        scale_O = (0.5 + torch.rand(channels, generator=generator)) * spread / 127
        return Layer(weight, scale_O, bias_O * 50 + 60, 0.375, stride, relu, source_shape, shape, border)
    weight = (torch.randn(size, generator=generator) * spread).to(dtype)
    return Layer(weight, None, bias_O, 1.0, stride, relu, source_shape, shape)


def exact(layer, x, other=None):
    """The layer in float64, before its result is rounded."""
    codes = layer.scale_O is not None
    border = layer.weight_OIKK.shape[-1] // 2
    padded = functional.pad(x.double(), (border,) * 4, value=layer.border)
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


@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("channels_in", "channels", "height", "width", "kernel", "stride"),
    [
        (16, 16, 32, 32, 3, 1), (16, 32, 32, 32, 3, 2), (16, 32, 32, 32, 1, 2), (32, 32, 16, 16, 3, 1),
        (32, 64, 16, 16, 3, 2), (64, 64, 8, 8, 3, 1), (3, 16, 32, 32, 3, 1), (1, 32, 8, 8, 3, 1),
        (5, 48, 7, 9, 3, 1), (48, 16, 9, 7, 3, 2), (128, 16, 5, 3, 1, 1), (16, 96, 1, 1, 3, 1), (20, 16, 6, 5, 3, 3),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("residual", "relu", "rows"), [(False, True, 7), (True, True, 33), (True, False, 16)])
def test_values(dtype, channels_in, channels, height, width, kernel, stride, residual, relu, rows):
    border = 0 if dtype != torch.uint8 else 113
    layer = a_layer(
        dtype, (channels_in, height, width), channels, kernel=kernel, stride=stride, relu=relu, border=border
    )
    x = maps(dtype, rows, channels_in, height, width)
    other = maps(dtype, rows, *layer.shape, seed=2) if residual else None
    given = [x] if other is None else [x, other]
    before = [value.clone() for value in given]
    operands = [(0, 1 if residual else None)]
    made = AmxChain([layer], operands, [value.shape[1:] for value in given], dtype, amx_library())(*given)
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert made.shape == (rows, *layer.shape)
    assert_rounded(made, exact(layer, x, other))
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_value_as_source_and_residual(dtype):
    layer = a_layer(dtype, (16, 5, 6), 16, border=9 if dtype == torch.uint8 else 0)
    x = maps(dtype, 20, 16, 5, 6)
    made = AmxChain([layer], [(0, 0)], [(16, 5, 6)], dtype, amx_library())(x)
    assert_rounded(made, exact(layer, x, x))


@needs_kernel
def test_what_no_graph_has_is_refused():
    dtype, library = torch.uint8, amx_library()
    average = Layer(None, None, None, 1.0, 1, False, (16, 4, 4), (16, 1, 1))
    with pytest.raises(ValueError, match="ends a chain"):
        AmxChain([average, average], [(0, None), (0, None)], [(16, 4, 4)], dtype, library)
    layers = [a_layer(dtype, (16, 4, 4), 16, border=code) for code in (3, 4)]
    with pytest.raises(ValueError, match="one code of zero"):
        AmxChain(layers, [(0, None), (0, 1)], [(16, 4, 4)], dtype, library)
    with pytest.raises(ValueError, match="only an input of a chain"):
        AmxChain(layers, [(0, None), (1, None)], [(16, 4, 4)], dtype, library)


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


@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_chain_is_its_layers_one_by_one(dtype):
    """Each layer by itself is exact to one rounding, and together they are the same bits."""
    layers, operands = a_chain(dtype)
    x = maps(dtype, 37, 16, 9, 12)
    values = [x]
    for layer, (source, other) in zip(layers, operands, strict=True):
        given = [values[source]] if other is None else [values[source], values[other]]
        alone = AmxChain(
            [layer], [(0, None if other is None else 1)], [v.shape[1:] for v in given], dtype, amx_library()
        )
        values.append(alone(*given))
    chain = AmxChain(layers, operands, [(16, 9, 12)], dtype, amx_library())
    assert torch.equal(chain(x), values[-1])
    assert len(chain.inner) == 5  # two maps and the chain's input at full size, two at half


@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES)
def test_averages(dtype):
    average = Layer(None, None, None, 0.25 / 15, 1, False, (48, 5, 3), (48, 1, 1))
    x = maps(dtype, 19, 48, 5, 3)
    made = AmxChain([average], [(0, None)], [(48, 5, 3)], dtype, amx_library())(x)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, (x.double().mean((2, 3)) / 4).float(), rtol=1e-6, atol=1e-6)


@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_is_its_own(dtype):
    """Bit for bit: whatever its neighbours, its place, the size of the batch and the number of threads."""
    layers, operands = a_chain(dtype)
    chain = AmxChain(layers, operands, [(16, 9, 12)], dtype, amx_library())
    x = maps(dtype, 101, 16, 9, 12)
    together = chain(x)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    assert torch.equal(chain(x[order].contiguous(memory_format=torch.channels_last)), together[order])
    for start, size in ((0, 1), (3, 2), (17, 31), (5, 64)):
        assert torch.equal(chain(x[start : start + size]), together[start : start + size])
    for threads in (1, 3):
        torch.set_num_threads(threads)
        assert torch.equal(chain(x), together)
    if dtype == torch.bfloat16:
        x[20] = torch.nan
        spoilt = chain(x)
        assert spoilt[20].isnan().all()
        assert torch.equal(spoilt[:20], together[:20])
        assert torch.equal(spoilt[21:], together[21:])


@needs_kernel
def test_inputs_of_another_kind_are_refused():
    chain = AmxChain([a_layer(torch.uint8, (16, 4, 4), 16)], [(0, None)], [(16, 4, 4)], torch.uint8, amx_library())
    with pytest.raises(ValueError, match="is not the chain's"):
        chain(torch.zeros(2, 16, 4, 4))
    with pytest.raises(ValueError, match="is not the chain's"):
        chain(torch.zeros(2, 16, 4, 5, dtype=torch.uint8))


@needs_kernel
@pytest.mark.parametrize(("precision", "dtype"), [("int8", torch.uint8), ("bf16", torch.bfloat16)])
def test_no_product_of_the_library_is_faster_than_the_bare_ones(precision, dtype, monkeypatch):
    bare, work = amx.bare_products(dtype)
    device = torch.device("cpu")
    best = max(ceilings._rate(bare, work, device) for _ in range(5))
    assert 1e10 < best < 1e14
    with monkeypatch.context() as patched:
        patched.setattr(amx, "bare_products", lambda _: None)
        library = ceilings.multiply_adds_per_second(precision, device)
    assert library < 1.1 * best
    assert ceilings.multiply_adds_per_second(precision, device) > 0.3 * best  # others may be at work by now


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
    return [len(module.layers) for module in graph.modules() if isinstance(module, AmxChain)]


@needs_kernel
def test_a_network_of_chains_keeps_the_function_in_bfloat16(tangled):
    net, rows = tangled
    graph = fuse(trace(net))
    assert floats_to_amx(graph, rows[:2])
    assert sum(chains_of(graph)) == 13  # all but the 5 x 5 convolution; with the average
    assert len(fused_convs(graph)) == 1
    lower = inference._in_dtype(graph, torch.bfloat16)
    made, wanted = lower(rows.bfloat16().contiguous(memory_format=torch.channels_last)), net(rows)
    assert made.dtype == torch.float32
    spread = (wanted - wanted.mean(0)).square().mean().sqrt()
    assert (made - wanted).square().mean().sqrt() < 0.05 * spread


@needs_kernel
def test_a_network_of_chains_keeps_the_function_on_codes(tangled):
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
    wanted = by_onednn(codes)
    graph, _ = Quantiser(graph, ranges, given, len(rows), rounder.rounded).run()
    assert codes_to_amx(graph)
    assert sum(chains_of(graph)) == 13
    assert [type(module) for module in graph.modules() if isinstance(module, Int8Conv | MeanOfCodes)] == [Int8Conv]
    spread = (wanted - wanted.mean(0)).square().mean().sqrt()
    assert (graph(codes) - wanted).square().mean().sqrt() < 0.02 * spread  # codes next to a tie may fall otherwise
    assert not codes_to_amx(graph)


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


@needs_kernel
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_value_that_is_not_used_stays_out_of_chains(precision):
    torch.manual_seed(0)
    net = Aside().eval().requires_grad_(requires_grad=False)
    rows = noisy_rows((3, 8, 8), 0.25, 64)
    with torch.inference_mode():
        network = decompose(net, rows[:2], 5)
        form = next(build.forms(network, precision, 16, rows, only="amx"))
        wanted = logits_of(plain(network, 16), rows)
        spread = (wanted - wanted.mean(0)).square().mean().sqrt()
        assert (logits_of(form, rows) - wanted).square().mean().sqrt() < 0.1 * spread


@pytest.fixture
def network():
    return convolutions()


@needs_kernel
@pytest.mark.parametrize(("precision", "error"), [("bf16", 0.01), ("int8", 0.05)])
def test_the_form_is_one_function_and_comes_first(network, precision, error):
    network, rows = network
    with torch.inference_mode():
        form = next(build.forms(network, precision, 16, rows))
        assert form.name == "amx"
        assert is_one_function(form, rows)
        reference = logits_of(plain(network, 16), rows)
        made = logits_of(form, rows)
        spread = (reference - reference.mean(0)).square().mean().sqrt()
        assert (made - reference).square().mean().sqrt() < error * spread


@pytest.mark.parametrize(("precision", "names"), [("bf16", ["onednn", "folded"]), ("int8", ["int8"])])
def test_without_the_kernel_the_other_forms_are_there(network, monkeypatch, precision, names):
    network, rows = network
    monkeypatch.setattr(amx, "compile_library", lambda *_, **__: None)
    with torch.inference_mode():
        assert [form.name for form in build.forms(network, precision, 16, rows)] == names


@needs_kernel
def test_a_system_that_refuses_the_tiles(monkeypatch, caplog):
    class Refusing:
        def spacte_amx_allowed(self):
            return 0

    monkeypatch.setattr(amx, "compile_library", lambda *_, **__: Refusing())
    assert amx_library() is None
    assert "signal stack" in caplog.text


@pytest.mark.parametrize(
    ("conv", "size"),
    [
        (nn.Conv2d(16, 16, 3), 8),
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
        assert (amx.layer_of_floats(graph, node, seen) is not None) == fits
        observer = RangeObserver(graph)
        observer.run(rows + torch.arange(2.0)[:, None, None, None])
        rounder = WeightRounder(graph)
        rounder.round(rows)
        coded, _ = Quantiser(graph, observer.ranges(), codes_for(-1.0, 1.0), 2, rounder.rounded).run()
        step = next(node for node in coded.graph.nodes if str(node.target).endswith("int8_fused"))
        assert (amx.layer_of_codes(coded, step) is not None) == fits
