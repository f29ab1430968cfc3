"""Promise: the votes of a shard are a function of image and shard alone, and those that the module gives."""

import copy
import itertools
import resource
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from spacte_workers.engine import Engine, EngineError
from spacte_workers.images import BadImageError, from_array
from spacte_workers.noise.gaussian import GaussianNoise
from spacte_workers.noise.grid import GridNoise
from spacte_workers.noise.philox import row_names
from spacte_workers.noise.table import noise_table
from spacte_workers.units import NoiseSource, Phase, Shard

SOURCE = NoiseSource("0123456789abcdef0123456789abcdef", 0, 0.25, "grid")
SHAPE = (2, 6, 5)
CLASSES = 4


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Heads(nn.Module):
    """A small multi-head network with everything the graphs have to handle."""

    def __init__(self, heads=3):
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.down = nn.Conv2d(8, 16, 1, 2)
        self.deep = nn.ModuleList(nn.Conv2d(8, 16, 3, 2, 1) for _ in range(heads))
        self.out = nn.ModuleList(nn.Linear(16, CLASSES) for _ in range(heads))

    def forward(self, x):
        h = torch.relu(self.bn(self.stem(x)))
        answers = []
        for deep, out in zip(self.deep, self.out, strict=True):
            answers.append(out((deep(h) + self.down(h)).relu().mean((2, 3))))
        return answers


class Branching(nn.Module):
    """A module that cannot be traced: its path hangs on a value."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(60, CLASSES)

    def forward(self, x):
        y = self.linear(x.reshape(len(x), -1))
        return y if x.sum() != 1e30 else -y


def balanced(module, seed=0):
    """The module with logits centred on noisy input, so that votes are spread over the classes."""
    torch.manual_seed(seed)
    with torch.no_grad():
        x = torch.rand(400, *SHAPE) + 0.25 * torch.randn(400, *SHAPE)
        if isinstance(module, Heads):
            module.train()
            module(x)
            module.eval()
            for linear, logits in zip(module.out, module(x), strict=True):
                linear.weight /= logits.std()
                linear.bias.copy_((linear.bias - logits.mean(0)) / logits.std())
        else:
            list(module.modules())[-1].bias -= module.eval()(x).mean(0)
    return module.eval()


def heads_net():
    torch.manual_seed(1)
    return balanced(Heads())


def an_image(seed=0, shape=SHAPE):
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return from_array(pixels, input_shape=shape)


def engine_of(module, **options):
    options = {"precision": "fp32", "batch": 32, "device": "cpu", **options}
    return Engine(module, input_shape=SHAPE, num_classes=CLASSES, **options)


@pytest.fixture(scope="module")
def net():
    return heads_net()


@pytest.fixture(scope="module")
def engine(net):
    return engine_of(net)


def naive_votes(module, image, source, phase, start, stop):
    """What the definition says: noise of each sample, plain sum of head logits, first maximum."""
    channels, height, width = image.shape
    rows = row_names(source, phase, start, stop)
    pixels = channels * height * width
    x = (
        torch.frombuffer(bytearray(image.data), dtype=torch.uint8)
        .view(image.shape)
        .permute(1, 2, 0)
        .reshape(-1)
    )
    if source.noise == "grid":
        noisy = (GridNoise(noise_table(source.sigma), pixels).draw(rows) + x).float() / 255
    else:
        noisy = x.float() / 255 + source.sigma * GaussianNoise(pixels).draw(rows)
    noisy = noisy.view(-1, height, width, channels).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        answer = module(noisy)
    heads = [answer] if isinstance(answer, torch.Tensor) else answer
    total = torch.stack(list(heads)).sum(0).argmax(1)
    if source.k_consensus is None:
        return total
    first = torch.stack([z.argmax(1) for z in heads[: source.k_consensus]])
    return torch.where((first == first[0]).all(0), first[0], total)


def naive_counts(*args):
    return tuple(torch.bincount(naive_votes(*args), minlength=CLASSES).tolist())


@pytest.mark.parametrize("noise", ["grid", "float"])
@pytest.mark.parametrize("k", [None, 1, 2, 3])
def test_counts_are_the_definition(engine, net, noise, k):
    source = replace(SOURCE, noise=noise, k_consensus=k)
    counts = engine.votes(an_image(), Shard(source, Phase.ESTIMATION, 7, 507)).counts
    expected = naive_counts(net, an_image(), source, Phase.ESTIMATION, 7, 507)
    assert sum(counts) == 500
    assert min(counts) > 0, "a degenerate network shows nothing"
    # The fused graph rounds differently, which may turn a vote that is all but a tie.
    assert sum(abs(a - b) for a, b in zip(counts, expected, strict=True)) <= 2


@pytest.mark.parametrize(
    "module",
    [
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(60, CLASSES)),
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, CLASSES)),
        Branching,
    ],
)
def test_any_module(module):
    torch.manual_seed(0)
    module = balanced(module())
    counts = engine_of(module).votes(an_image(), Shard(SOURCE, Phase.SELECTION, 0, 300)).counts
    expected = naive_counts(module, an_image(), SOURCE, Phase.SELECTION, 0, 300)
    assert min(expected) > 0
    assert sum(abs(a - b) for a, b in zip(counts, expected, strict=True)) <= 2


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(1, 299), max_size=12, unique=True),
    k=st.sampled_from([None, 2]),
    packed=st.booleans(),
)
def test_any_cutting_gives_the_same_counts(engine, cuts, k, packed):
    source = replace(SOURCE, k_consensus=k)
    image = an_image()
    whole = engine.votes(image, Shard(source, Phase.ESTIMATION, 0, 300)).counts
    edges = [0, *sorted(cuts), 300]
    shards = [Shard(source, Phase.ESTIMATION, a, b) for a, b in pairwise(edges)]
    if packed:
        votes = engine.votes_many([(image, shard) for shard in shards])
    else:
        votes = [engine.votes(image, shard) for shard in shards]
    assert [sum(v.counts) for v in votes] == [shard.size for shard in shards]
    assert tuple(map(sum, zip(*(v.counts for v in votes), strict=True))) == whole


def test_shards_of_several_images_share_batches_without_a_trace(engine):
    units = [
        (
            an_image(seed),
            Shard(replace(SOURCE, seed=f"{seed:032x}", noise=noise, k_consensus=k), phase, 3, 3 + size),
        )
        for seed, noise, k, phase, size in [
            (0, "grid", None, Phase.SELECTION, 5),
            (1, "float", None, Phase.SELECTION, 50),
            (2, "grid", None, Phase.ESTIMATION, 31),
            (3, "grid", 2, Phase.PREDICTION, 40),
            (4, "grid", 2, Phase.ESTIMATION, 1),
            (5, "grid", None, Phase.ESTIMATION, 64),
        ]
    ]
    together = engine.votes_many(units)
    alone = [engine.votes(image, shard) for image, shard in units]
    assert [v.counts for v in together] == [v.counts for v in alone]
    assert all(v.seconds > 0 for v in together)


def test_packing_fills_batches(engine, monkeypatch):
    """Six looks of 16 rows take three batches of 32, not six."""
    calls = []
    form = engine.form
    monkeypatch.setattr(
        engine, "forms", [replace(form, trunk=lambda x: calls.append(len(x)) or form.trunk(x))]
    )
    engine.votes_many([(an_image(i), Shard(SOURCE, Phase.SELECTION, 0, 16)) for i in range(6)])
    assert calls == [32, 32, 32]


def test_consensus_runs_the_other_heads_for_undecided_rows_only(engine, net, monkeypatch):
    calls = {0: 0, 2: 0}
    form = engine.form

    def counted(index):
        def head(features):
            calls[index] += 1
            return form.heads[index](features)

        return head

    heads = [counted(0), form.heads[1], counted(2)]
    monkeypatch.setattr(engine, "forms", [replace(form, heads=heads)])
    source = replace(SOURCE, k_consensus=2)
    engine.votes(an_image(), Shard(source, Phase.ESTIMATION, 0, 640))
    with torch.no_grad():
        agree = naive_votes(net, an_image(), replace(source, k_consensus=2), Phase.ESTIMATION, 0, 640)
    assert len(agree) == 640
    assert calls[0] == 20
    assert 0 < calls[2] < 20


def test_ties_go_to_the_lowest_class():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.tensor([0.0, 1.0, 1.0, 1.0]).expand(len(x), 4) + 0 * x.sum((1, 2, 3))[:, None]

    counts = engine_of(Constant()).votes(an_image(), Shard(SOURCE, Phase.SELECTION, 0, 50)).counts
    assert counts == (0, 50, 0, 0)


def test_small_batches_vote_as_large_ones(net):
    large, small = engine_of(net, batch=64), engine_of(net, batch=8)
    both = copy.copy(large)
    both.forms = [large.form, small.form]
    for size in (1, 20, 33, 64, 70, 300):
        for k in (None, 2):
            shard = Shard(replace(SOURCE, k_consensus=k), Phase.ESTIMATION, 5, 5 + size)
            assert both.votes(an_image(), shard).counts == large.votes(an_image(), shard).counts


def test_the_module_itself_is_left_alone(net):
    module = copy.deepcopy(net).train()
    before = copy.deepcopy(module.state_dict())
    engine = engine_of(module)
    engine.votes(an_image(), Shard(SOURCE, Phase.SELECTION, 0, 40))
    assert module.training
    assert all(p.requires_grad for p in module.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before.values(), module.state_dict().values(), strict=True))


class OwnBatchStatistics(nn.Module):
    """Normalises by the batch it gets, also in eval mode: a row's answer hangs on its neighbours."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(60, CLASSES)

    def forward(self, x):
        y = self.linear(x.flatten(1))
        return y - y.mean(0)


class AlwaysDropout(nn.Module):
    """Drops at random, also in eval mode."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(60, CLASSES)

    def forward(self, x):
        return self.linear(nn.functional.dropout(x.flatten(1), 0.5, training=True))


class Broken(nn.Module):
    def forward(self, x):
        return torch.full((len(x), CLASSES), torch.nan)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (OwnBatchStatistics(), "one fixed function"),
        (AlwaysDropout(), "one fixed function"),
        (Broken(), "NaN"),
        (nn.Sequential(nn.Flatten(), nn.Linear(60, 7)), r"\[2, 7\].*\[2, 4\]"),
        (nn.Sequential(nn.Flatten(), nn.Linear(61, 4)), "fails on a batch"),
        (nn.Flatten(), r"\[2, 60\]"),
    ],
)
def test_what_is_no_classifier_is_refused(module, words):
    with pytest.raises(EngineError, match=words):
        engine_of(module)


def test_what_does_not_fit_the_model_is_refused(engine):
    with pytest.raises(BadImageError, match=r"\[2, 5, 6\].*\[2, 6, 5\]"):
        engine.votes(an_image(shape=(2, 5, 6)), Shard(SOURCE, Phase.SELECTION, 0, 4))
    with pytest.raises(EngineError, match="3 heads"):
        engine.votes(an_image(), Shard(replace(SOURCE, k_consensus=4), Phase.SELECTION, 0, 4))
    off_grid = from_array(np.full(SHAPE, 0.3), input_shape=SHAPE)
    with pytest.raises(BadImageError, match="noise='float'"):
        engine.votes(off_grid, Shard(SOURCE, Phase.SELECTION, 0, 4))
    floats = engine.votes(off_grid, Shard(replace(SOURCE, noise="float"), Phase.SELECTION, 0, 40))
    assert sum(floats.counts) == 40


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_lower_precisions_vote_nearly_alike_and_are_named(net, engine, precision):
    low = engine_of(net, precision=precision, allow_int8=True, min_agreement=0.9)
    assert low.precision == precision
    assert low.vote_agreement >= 0.9
    shard = Shard(SOURCE, Phase.ESTIMATION, 0, 1_000)
    counts, exact = (e.votes(an_image(), shard).counts for e in (low, engine))
    assert sum(abs(a - b) for a, b in zip(counts, exact, strict=True)) <= 200
    assert low.votes(an_image(), shard).counts == counts


def test_a_precision_that_votes_otherwise_is_refused(net):
    with pytest.raises(EngineError, match=r"int8 votes as float32 on \d+.\d% of noisy rows only"):
        engine_of(net, precision="int8", min_agreement=1.01)


def test_int8_needs_convolutions():
    with pytest.raises(EngineError, match="int8 cannot be computed"):
        engine_of(nn.Sequential(nn.Flatten(), nn.Linear(60, CLASSES)), precision="int8")


def test_auto_takes_int8_only_where_it_is_allowed(net, monkeypatch):
    from spacte_workers.engine import choice

    monkeypatch.setattr(choice, "probe", lambda name, *_: {"fp32": 1, "bf16": 2, "int8": 9}[name])
    # How fast the classifier itself happens to run, on a machine that may be busy, decides nothing.
    monkeypatch.setattr(choice, "rows_per_second", lambda form, *_: {"fp32": 9.0}.get(form.precision, 1.0))
    assert engine_of(net, precision="auto", min_agreement=0.9).precision == "bf16"
    assert engine_of(net, precision="auto", min_agreement=0.9, allow_int8=True).precision == "int8"
    fallback = engine_of(net, precision="auto", min_agreement=1.0, allow_int8=True)
    assert fallback.vote_agreement == 1.0


def test_batch_size_is_measured_and_then_fixed(net):
    engine = engine_of(net, batch=None)
    assert engine.batch & (engine.batch - 1) == 0
    assert engine.measured_rate > 0
    assert engine.votes(an_image(), Shard(SOURCE, Phase.ESTIMATION, 0, 300)).counts == (
        engine_of(net, batch=16).votes(an_image(), Shard(SOURCE, Phase.ESTIMATION, 0, 300)).counts
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_logits_hang_on_neither_batch_size_nor_threads(net, precision):
    """Bit for bit, so that a batch size chosen by timing, or another core, never changes a count."""
    from spacte_workers.engine.build import forms
    from spacte_workers.engine.calibration import noisy_rows
    from spacte_workers.engine.checks import logits_of
    from spacte_workers.engine.network import take_apart

    rows = noisy_rows(SHAPE, 0.25, 128)
    found = []
    with torch.inference_mode():
        network = take_apart(net, rows[:2], CLASSES)
        for batch, threads in itertools.product((8, 32, 128), (1, 2)):
            torch.set_num_threads(threads)
            found.append(logits_of(next(forms(network, precision, batch, rows)), rows))
    torch.set_num_threads(1)
    assert all(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.slow
def test_memory_stays_flat_over_ten_thousand_requests(net):
    engine = engine_of(net, batch=16)

    def requests(first, count):
        for i in range(first, first + count):
            source = replace(
                SOURCE, seed=f"{i:032x}", k_consensus=(None, 2)[i % 2], noise=("grid", "float")[i % 3 > 1]
            )
            engine.votes(an_image(i % 5), Shard(source, Phase.ESTIMATION, 0, 20))

    requests(0, 5_000)  # caches of bounded size fill
    before = resident()
    requests(5_000, 10_000)
    assert resident() - before < 8 << 20


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
