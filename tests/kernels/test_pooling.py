"""Promise: max pooling in a chain, and moved to where a chain can take it, changes not one bit of a result."""

import pytest
import torch
from tests.convolution_chains import KINDS, a_layer, chains_of, every_kind, maps
from tests.kernels.test_inference import settled
from torch import nn
from torch.nn import functional

from spacte_core.forms import logits_of, plain
from spacte_core.kernels import inference
from spacte_core.kernels.cpu.chain import ChainKernel, Layer
from spacte_core.kernels.graph.folding import fold_batch_norm
from spacte_core.kernels.graph.pooling import delay_pooling
from spacte_core.kernels.graph.tracing import trace
from spacte_core.models import ModelConfig, build
from spacte_core.models.multihead import stack_logits
from spacte_workers.engine.calibration import noisy_rows
from spacte_workers.engine.decomposition import decompose

WINDOWS = {2: (2, 2, 0), 3: (3, 2, 1)}


def a_pooling(source_shape, window):
    channels, *sizes = source_shape
    height, width = (side // 2 if window == 2 else (side + 1) // 2 for side in sizes)
    shape = (channels, height, width)
    return Layer(None, None, None, 1.0, 2, False, source_shape, shape, padding=window // 3, window=window)


def pooled(x, window):
    return functional.max_pool2d(x.float(), *WINDOWS[window]).to(x.dtype)


@every_kind
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(("channels", "height", "width"), [(16, 8, 8), (48, 7, 9), (16, 2, 3), (64, 31, 5)])
def test_values(target, dtype, window, channels, height, width):
    x = maps(dtype, 19, channels, height, width)
    x = x if dtype == torch.uint8 or window == 2 else x.relu()
    layer = a_pooling((channels, height, width), window)
    made = ChainKernel([layer], [(0, None)], [(channels, height, width)], dtype, target)(x)
    assert made.shape == (19, *layer.shape)
    assert torch.equal(made, pooled(x, window))


@every_kind
@pytest.mark.parametrize("window", WINDOWS)
def test_between_convolutions(target, dtype, window):
    """It is the layers one by one, also where its source has a code of zero for the next reader's border."""
    before = a_layer(dtype, (16, 9, 12), 32, border=7 if dtype == torch.uint8 else 0)
    pool = a_pooling(before.shape, window)
    after = a_layer(dtype, pool.shape, 16, seed=1)
    x = maps(dtype, 21, 16, 9, 12)
    alone = ChainKernel([before], [(0, None)], [(16, 9, 12)], dtype, target)(x)
    small = pooled(alone, window).contiguous(memory_format=torch.channels_last)
    wanted = ChainKernel([after], [(0, None)], [pool.shape], dtype, target)(small)
    chain = ChainKernel([before, pool, after], [(0, None), (1, None), (2, None)], [(16, 9, 12)], dtype, target)
    assert torch.equal(chain(x), wanted)
    ends = ChainKernel([before, pool], [(0, None), (1, None)], [(16, 9, 12)], dtype, target)
    assert torch.equal(ends(x), small)


@every_kind
def test_what_is_no_number_stays_none(target, dtype):
    """Wherever in its window it is, and with either sign; neither zero of bfloat16 is larger than a value."""
    if dtype == torch.uint8:
        pytest.skip("every code is a number")
    x = torch.full((18, 16, 4, 4), 0.5, dtype=dtype)
    for place in range(4):
        x[place, :, place // 2, place % 2] = torch.nan
        x[4 + place, :, place // 2, place % 2] = -torch.tensor(torch.nan)
        x[8 + place, :, place // 2, place % 2] = -0.0
    x = x.contiguous(memory_format=torch.channels_last)
    made = ChainKernel([a_pooling((16, 4, 4), 2)], [(0, None)], [(16, 4, 4)], dtype, target)(x)
    assert made[:8, :, 0, 0].isnan().all()
    assert torch.equal(made[8:], torch.full((10, 16, 2, 2), 0.5, dtype=dtype))
    assert not made[:8].flatten(2)[..., 1:].isnan().any()


@every_kind
def test_a_border_that_could_win_is_refused(target, dtype):
    if dtype != torch.uint8:
        pytest.skip("floats have one zero")
    shape = (16, 6, 6)
    layers = [a_pooling(shape, 3), a_layer(dtype, shape, 16, border=9)]
    with pytest.raises(ValueError, match="one code of zero"):
        ChainKernel(layers, [(0, None), (0, None)], [shape], dtype, target)


def negative(norm):
    with torch.no_grad():
        norm.weight[0] = -0.1
    return norm


class Twice(nn.Module):
    """Pooling whose input, or whose result, is read again."""

    def __init__(self, *, early):
        super().__init__()
        self.conv, self.norm, self.early = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), early

    def forward(self, x):
        first = self.conv(x)
        small = functional.interpolate(first, scale_factor=0.5) if self.early else 0
        pool = functional.max_pool2d(first, 2)
        return torch.relu(self.norm(pool)) + (small if self.early else pool)


MOVED = [
    (nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
    (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.MaxPool2d(3, 2, 1), nn.ReLU()),
    (nn.Conv2d(3, 8, 3), nn.MaxPool2d(3, 1, 1, ceil_mode=True), nn.BatchNorm2d(8), nn.ReLU()),
]


@pytest.mark.parametrize("layers", MOVED)
def test_it_moves_after_what_increases(layers):
    net = settled(nn.Sequential(*layers))
    x = torch.randn(5, 3, 13, 11, generator=torch.Generator().manual_seed(0))
    graph = delay_pooling(trace(net))
    graph.recompile()
    called = [type(graph.get_submodule(n.target)) for n in graph.graph.nodes if n.op == "call_module"]
    assert called == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d]
    assert torch.equal(graph(x), net(x))
    folded = fold_batch_norm(graph)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    torch.testing.assert_close(folded(x), net(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), negative(nn.BatchNorm2d(8)), nn.ReLU()),
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.BatchNorm2d(8, track_running_stats=False)),
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.GELU()),
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.AvgPool2d(2), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Linear(9, 9), nn.MaxPool2d(2), nn.ReLU()),
        Twice(early=True),
        Twice(early=False),
    ],
)
def test_it_stays_where_the_function_would_be_another(net):
    net = net.eval()
    graph = trace(net)
    before = [(node.op, node.target) for node in graph.graph.nodes]
    assert [(node.op, node.target) for node in delay_pooling(graph).graph.nodes] == before
    x = torch.randn(4, 3, 12, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fold_batch_norm(graph)(x), net(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("target", "dtype"), [kind for kind in KINDS if kind.values[1] != torch.float32])
def test_a_network_with_pooling_is_a_chain(target, dtype, monkeypatch):
    """The wide CIFAR network: its trunk is one chain on every target, and each head."""
    torch.manual_seed(0)
    config = ModelConfig(arch="cifar_fast64", heads=2, num_classes=10, input_shape=(3, 32, 32))
    net = settled(build(config))
    monkeypatch.setattr(inference, "_chain_target", lambda *_: target)
    rows = noisy_rows((3, 32, 32), 0.25, 48)
    classifier = decompose(net, rows[:2], 10)
    with torch.inference_mode():
        precision = "int8" if dtype == torch.uint8 else "bf16"
        form = next(inference.optimized_forms(classifier, precision, 48, rows, only=target.form))
        made, wanted = logits_of(form, rows), logits_of(plain(classifier, 48), rows)
        torch.testing.assert_close(wanted, stack_logits(net(rows)).sum(0))
    assert chains_of(form.trunk) == [7 - (target.unit is None)]  # matrix units leave out the stem of 24 channels
    assert form.any_batch == (target.unit is not None)
    assert chains_of(form.heads[0]) == [4]
    spread = (wanted - wanted.mean(0)).square().mean().sqrt()
    assert (made - wanted).square().mean().sqrt() < 0.1 * spread
