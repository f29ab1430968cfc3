"""Promise: the votes of a shard are a function of image and shard alone, and those that the module gives."""

import copy
import resource
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.small_engine import CLASSES, SOURCE, an_image, balanced, engine_of, heads_net, on_threads
from torch import nn

from spacte_core.models.multihead import Pick
from spacte_workers.engine.decomposition import AllLogits
from spacte_workers.engine.selection import not_computed
from spacte_workers.noise.gaussian import GaussianNoise
from spacte_workers.noise.grid import GridNoise
from spacte_workers.noise.philox import row_names
from spacte_workers.noise.table import noise_table
from spacte_workers.shards import Phase, Shard


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    yield from on_threads(1)


@pytest.fixture(scope="module")
def net():
    return heads_net()


class Branching(nn.Module):
    """A module that cannot be traced: its path hangs on a value."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(60, CLASSES)

    def forward(self, x):
        y = self.linear(x.reshape(len(x), -1))
        return y if x.sum() != 1e30 else -y


@pytest.fixture(scope="module")
def engine(net):
    return engine_of(net)


def naive_votes(module, image, source, phase, start, stop):
    """What the definition says: noise of each sample, plain sum of head logits, first maximum."""
    channels, height, width = image.shape
    rows = row_names(source, phase, start, stop)
    pixels = channels * height * width
    x = torch.frombuffer(bytearray(image.data), dtype=torch.uint8).view(image.shape).permute(1, 2, 0).reshape(-1)
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
@given(cuts=st.lists(st.integers(1, 299), max_size=12, unique=True), k=st.sampled_from([None, 2]), packed=st.booleans())
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
        (an_image(seed), Shard(replace(SOURCE, seed=f"{seed:032x}", noise=noise, k_consensus=k), phase, 3, 3 + size))
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
    monkeypatch.setattr(engine, "forms", [replace(form, trunk=lambda x: calls.append(len(x)) or form.trunk(x))])
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


class OneTensorOfLogits(nn.Module):
    """A module whose heads are computed together, as those of an exported program are."""

    def __init__(self, net):
        super().__init__()
        self.normalize, self.backbone = nn.Identity(), AllLogits(net, 3)
        self.heads = nn.ModuleList(map(Pick, range(3)))

    def forward(self, x):
        logits_BLK = self.backbone(self.normalize(x))
        return [head(logits_BLK) for head in self.heads]


@pytest.mark.parametrize("k", [None, 1, 2])
def test_heads_that_are_computed_together(engine, net, k):
    shard = Shard(replace(SOURCE, k_consensus=k), Phase.ESTIMATION, 0, 300)
    together = engine_of(OneTensorOfLogits(net)).votes(an_image(), shard).counts
    assert sum(abs(a - b) for a, b in zip(together, engine.votes(an_image(), shard).counts, strict=True)) <= 2


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


@pytest.mark.long
@pytest.mark.slow
def test_memory_stays_flat_over_ten_thousand_requests(net):
    precisions = [name for name in ("fp32", "bf16", "int8") if not_computed(name, torch.device("cpu")) is None]
    engines = [engine_of(net, batch=16, precision=name, min_agreement=0.9) for name in precisions]

    def requests(first, count):
        for i in range(first, first + count):
            source = replace(
                SOURCE, seed=f"{i:032x}", k_consensus=(None, 2)[i // 5 % 2], noise=("grid", "float")[i % 5 > 3]
            )
            engines[i % len(engines)].votes(an_image(i % 5), Shard(source, Phase.ESTIMATION, 0, 20))

    requests(0, 5_000)  # caches of bounded size fill
    before = resident()
    requests(5_000, 10_000)
    assert resident() - before < 8 << 20


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
