"""Promise: what is loaded is one fixed function, in a precision that votes as float32 does, or it is refused."""

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.small_engine import CLASSES, SHAPE, SOURCE, an_image, engine_of, heads_net, on_threads
from torch import nn

from spacte_core.hardware import has_bf16
from spacte_workers.engine import EngineError
from spacte_workers.engine.calibration import calibration_rows
from spacte_workers.engine.errors import NoSuchKernelsError
from spacte_workers.images import BadImageError, from_array
from spacte_workers.shards import Phase, Shard


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    yield from on_threads(1)


@pytest.fixture(scope="module")
def net():
    return heads_net()


@pytest.fixture(scope="module")
def engine(net):
    return engine_of(net)


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


@pytest.mark.usefixtures("bf16_anywhere")
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


def test_the_kernels_of_another_engine_vote_or_none(net, engine):
    """Samplers of one certificate share a function, to its last rounding."""
    form, _, instructions = engine.kernels.partition("/")
    assert form != "folded"
    other = engine_of(net, kernels=f"folded/{instructions}")
    assert (other.form.name, other.kernels) == ("folded", f"folded/{instructions}")
    for strange in (f"abacus/{instructions}", "folded/beads", "abacus", ""):
        with pytest.raises(NoSuchKernelsError, match=f"The kernels '{strange.removesuffix('/' + instructions)}"):
            engine_of(net, kernels=strange)


def test_samplers_have_to_be_fitted_alike(net):
    """int8's scales and codes are part of the function: whoever finds others than the first sampler may not vote."""
    allowed = {"precision": "int8", "min_agreement": 0.9}
    first = engine_of(net, **allowed)
    form, instructions, fit = first.kernels.split("/")
    assert len(fit) == 12
    assert engine_of(net, kernels=first.kernels, **allowed).kernels == first.kernels
    with pytest.raises(NoSuchKernelsError):
        engine_of(net, kernels=f"{form}/{instructions}/{'0' * 12}", **allowed)
    assert engine_of(net, kernels=f"{form}/{instructions}", **allowed).kernels == first.kernels


def test_a_limit_on_instructions_makes_other_kernels(engine, net, monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    with pytest.raises(NoSuchKernelsError):
        engine_of(net, kernels=engine.kernels)
    assert engine_of(net).kernels == engine.kernels + " up to avx2"


def test_int8_needs_convolutions():
    with pytest.raises(EngineError, match="int8 cannot be computed"):
        engine_of(nn.Sequential(nn.Flatten(), nn.Linear(60, CLASSES)), precision="int8")


def test_auto_takes_int8_only_where_it_is_allowed(net, monkeypatch):
    from spacte_workers.engine import selection as choice

    monkeypatch.setattr(choice, "precision_rate", lambda name, *_: {"fp32": 1, "bf16": 2, "int8": 9}[name])
    # How fast the classifier itself happens to run, on a machine that may be busy, decides nothing.
    monkeypatch.setattr(choice, "rows_per_second", lambda form, *_: {"fp32": 9.0}.get(form.precision, 1.0))
    assert engine_of(net, precision="auto", min_agreement=0.9).precision == "bf16"
    assert engine_of(net, precision="auto", min_agreement=0.9, allow_int8=True).precision == "int8"
    fallback = engine_of(net, precision="auto", min_agreement=1.0, allow_int8=True)
    assert fallback.vote_agreement == 1.0


@pytest.mark.parametrize(
    ("target", "shares", "precisions"),
    [
        ("avx512", (0.95, 0), ["int8", "bf16", "fp32"]), ("avx512", (0, 0.95), ["int8", "fp32"]),
        ("avx512", (0.1, 0), ["int8", "bf16", "fp32"]), ("avx512bw", (0, 0), ["int8", "fp32"]),
        ("avx512bw", (0.95, 0), ["int8", "fp32"]), ("avx_vnni", (0.95, 0), ["int8", "fp32"]),
        ("avx2", (0, 0.95), ["int8", "fp32"]),
    ],
)  # fmt: skip
def test_auto_never_tries_a_slower_and_less_exact_precision_first(monkeypatch, target, shares, precisions):
    """Where Winograd takes a network of wide layers, float32 is as fast as bf16 is."""
    from spacte_core.kernels.cpu.targets import TARGETS, VARIABLE, runs
    from spacte_workers.engine.selection import candidate_precisions

    if not any(runs(known) and known.name == target for known in TARGETS):
        pytest.skip(f"no {target} here")
    monkeypatch.setenv(VARIABLE, target)
    cpu = torch.device("cpu")
    expected = [name for name in precisions if name != "bf16" or has_bf16(cpu)]
    assert candidate_precisions(cpu, allow_int8=True, shares=shares) == expected
    assert candidate_precisions(cpu, allow_int8=False, shares=shares) == [name for name in expected if name != "int8"]


@pytest.mark.parametrize(("channels", "stride", "share"), [(16, 1, 2304 / 2448), (16, 2, 0), (8, 1, 0)])
def test_the_shares_of_winograd(channels, stride, share):
    """A 3 x 3 convolution of 16 channels is taken, one of 1 x 1 or of other channels is not."""
    from spacte_core.kernels.rates import winograd_shares
    from spacte_workers.engine.decomposition import decompose

    conv, mixing = nn.Conv2d(16, channels, 3, stride, 1), nn.Conv2d(channels, 9, 1)
    net = nn.Sequential(conv, mixing, nn.Flatten()).eval()
    rows = torch.rand(2, 16, 8, 8)
    with torch.inference_mode():
        classifier = decompose(net, rows, 9 * 64 // stride**2)
        assert winograd_shares(classifier, rows) == pytest.approx((share, 0))


def test_wide_layers_are_counted_by_themselves():
    from spacte_core.kernels.rates import winograd_shares
    from spacte_workers.engine.decomposition import decompose

    layers = [nn.Conv2d(16, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 320, 3, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    rows = torch.rand(2, 16, 8, 8)
    with torch.inference_mode():
        shares = winograd_shares(decompose(nn.Sequential(*layers).eval(), rows, 320), rows)
    assert shares == pytest.approx((16 / 336, 320 / 336))


def test_without_kernels_auto_goes_by_units_alone(monkeypatch):
    from spacte_workers.engine import selection as choice

    monkeypatch.setenv("SPACTE_KERNELS", "off")
    for units in (True, False):
        monkeypatch.setattr(choice, "has_bf16", lambda _, units=units: units)
        assert choice.candidate_precisions(torch.device("cpu"), allow_int8=True) == (
            ["bf16", "fp32"] if units else ["fp32"]
        )


@pytest.mark.slow
def test_batch_size_is_measured_and_then_fixed(net):
    engine = engine_of(net, batch=None)
    assert engine.batch & (engine.batch - 1) == 0
    assert engine.measured_rate > 0
    assert engine.votes(an_image(), Shard(SOURCE, Phase.ESTIMATION, 0, 300)).counts == (
        engine_of(net, batch=16).votes(an_image(), Shard(SOURCE, Phase.ESTIMATION, 0, 300)).counts
    )


@pytest.mark.usefixtures("bf16_anywhere")
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("size", [64, 128, 256])
def test_another_sampler_loads_what_the_first_one_chose(net, monkeypatch, precision, size):
    """The very same function, whichever batch size timing chose on the first: scales, logits and counts.

    Timing may choose another batch only where that changes no bit of the logits; on some processors it would.
    """
    from spacte_core.forms import logits_of
    from spacte_workers.engine import selection as choice

    def logits(engine, rows):
        with torch.inference_mode():
            return logits_of(engine.form, rows)

    expected = 128
    monkeypatch.setitem(choice._VALUES_IN_FLIGHT, "cpu", expected << 8)  # the widest layer has 240 values
    monkeypatch.setattr(choice, "rows_per_second", lambda form, _: 1e6 if form.batch == size else 1e5)
    allowed = {"precision": precision, "allow_int8": True, "min_agreement": 0.9}
    first = engine_of(net, batch=None, **allowed)
    compared = calibration_rows(SHAPE, 0.25).compared
    at_expected, at_size = (engine_of(net, batch=batch, **allowed) for batch in (expected, size))
    same_bits = torch.equal(logits(at_expected, compared), logits(at_size, compared))
    assert first.batch == (size if same_bits else expected)

    other = engine_of(net, batch=first.batch, kernels=first.kernels, **allowed)
    assert other.form.encoding == first.form.encoding
    rows = calibration_rows(SHAPE, 0.3).compared
    assert torch.equal(logits(other, rows), logits(first, rows))
    shard = Shard(SOURCE, Phase.ESTIMATION, 0, 3_000)
    assert other.votes(an_image(), shard).counts == first.votes(an_image(), shard).counts
    assert other.vote_agreement == first.vote_agreement


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_logits_hang_on_neither_batch_size_nor_threads(net, precision):
    """Bit for bit, so that a batch size chosen by timing, or another core, never changes a count."""
    from spacte_core.forms import logits_of
    from spacte_workers.engine.calibration import noisy_rows
    from spacte_workers.engine.decomposition import decompose
    from spacte_workers.engine.forms import forms

    rows = noisy_rows(SHAPE, 0.25, 256)
    found = []
    with torch.inference_mode():
        network = decompose(net, rows[:2], CLASSES)
        for batch, threads in itertools.product((8, 32, 128), (1, 2)):
            torch.set_num_threads(threads)
            found.append(logits_of(next(forms(network, precision, batch, rows)), rows))
    torch.set_num_threads(1)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_a_row_that_costs_much_is_compared_less_often():
    rows = calibration_rows(SHAPE, 0.25)
    counts = {macs: len(rows.affordable(macs).compared) for macs in (0, 10**6, 2 * 10**9, 10**12)}
    assert list(counts.values()) == [512, 512, 68, 64]
    assert torch.equal(rows.affordable(10**12).compared, rows.compared[:64])
