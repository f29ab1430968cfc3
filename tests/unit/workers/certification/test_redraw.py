"""Promise: a certificate's first rows are drawn a second time, and whoever answers them otherwise is found out."""

import random

import numpy as np
import pytest
import torch
from tests.small_engine import CLASSES, SHAPE, balanced
from torch import nn

from spacte_workers import LocalCertifier
from spacte_workers.bench.simulated import simulated_votes
from spacte_workers.certification.algorithm import Certification, CertifySpec
from spacte_workers.certification.redraw import REDRAWN, same_logits
from spacte_workers.errors import NotOneFunctionError
from spacte_workers.shards import Phase, Votes

PIXELS = np.random.default_rng(3).integers(0, 256, SHAPE, dtype=np.uint8)
PROBABILITIES = (0.1, 0.8, 0.1)


def a_spec(**changes):
    options = {
        "sigma": 0.5,
        "num_classes": 3,
        "n0": 100,
        "n_max": 1_000,
        "alpha": 0.001,
        "bound": "auto",
        "noise": "grid",
        "seed": "0123456789abcdef" * 2,
        "redrawn": REDRAWN,
        **changes,
    }
    return CertifySpec(**options)


def logits_of(shard, moved=0.0):
    """One row a noise, which names its noise."""
    rows = np.arange(shard.start, shard.stop, dtype=np.float32)[:, None] * np.float32([1.0, -1.0, 0.5])
    return rows + np.float32(moved if shard.again else 0.0)


def drawn(shard, moved=0.0):
    wanted = shard.source.output == "logits"
    counts = simulated_votes(shard, PROBABILITIES)
    return Votes(counts, 0.01, logits_NK=logits_of(shard, moved) if wanted else None)


def shards_of(run, size, moved=0.0, chance=None):
    """Drive a run; which shards it drew, in the order in which their votes came."""
    calls, waiting = [], []
    while not run.done:
        shards = run.next_shards(size)
        assert shards or waiting
        calls.append(shards)
        waiting += shards
        if chance:
            chance.shuffle(waiting)
        if not shards or not chance or chance.random() < 0.5:
            while waiting:
                shard = waiting.pop()
                run.give(shard, drawn(shard, moved))
    return calls


@pytest.mark.parametrize("n0", [1, 5, REDRAWN, REDRAWN + 1, 100])
@pytest.mark.parametrize("size", [3, 50, 5_000])
def test_the_first_selection_noises_are_drawn_twice_and_in_different_calls(n0, size):
    run = Certification(a_spec(n0=n0, redrawn=min(n0, REDRAWN)))
    calls = shards_of(run, size)
    first, again = (
        {
            i
            for call in calls
            for s in call
            if s.phase == Phase.SELECTION and s.again == a
            for i in range(s.start, s.stop)
        }
        for a in (False, True)
    )
    assert first == set(range(n0))
    assert again == set(range(min(n0, REDRAWN)))
    for call in calls:
        assert {s.again for s in call if s.phase == Phase.SELECTION and s.stop <= REDRAWN} != {False, True}
    assert run.outcome().redrawn == min(n0, REDRAWN)


@pytest.mark.parametrize("seed", range(20))
def test_the_counts_are_those_without_it(seed):
    plain, run = Certification(a_spec(redrawn=0)), Certification(a_spec())
    shards_of(plain, 100)
    shards_of(run, 7 + seed, chance=random.Random(seed))
    expected, found = plain.outcome(), run.outcome()
    assert (found.counts, found.selection_counts, found.radius) == (
        expected.counts,
        expected.selection_counts,
        expected.radius,
    )


@pytest.mark.parametrize("size", [5, 5_000])
def test_another_logit_is_a_fault(size):
    with pytest.raises(NotOneFunctionError, match="one fixed function"):
        shards_of(Certification(a_spec()), size, moved=1e-6)


def test_what_counts_as_the_same():
    a = np.float32([[1.0, 2.0], [3.0, np.nan], [-np.inf, 0.0]])
    assert same_logits(a, a.copy(), 0.0)
    b = a.copy()
    b[0, 0] = np.nextafter(np.float32(1.0), np.float32(2.0))
    assert not same_logits(a, b, 0.0)
    assert same_logits(a, b, 1e-6)
    b[1, 1] = 0.0
    assert not same_logits(a, b, 1e-6)


ARMED = False
"""Whether the networks below waver: not before they have been loaded."""


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(SHAPE[0] * SHAPE[1] * SHAPE[2], CLASSES)

    def forward(self, x):
        logits = self.linear(x.flatten(1))
        return self.wavering(x.flatten(1), logits) if ARMED else logits

    def wavering(self, flat, logits):
        return logits


class RandomNoise(Linear):
    def wavering(self, flat, logits):
        return logits + 1e-3 * torch.randn_like(logits)


class Attention(Linear):
    def wavering(self, flat, logits):
        return logits + 0.01 * (flat @ flat.T).softmax(1) @ logits


class MeanOfTheBatch(Linear):
    def wavering(self, flat, logits):
        return logits + 0.01 * logits.mean(0, keepdim=True)


class CallCounter(Linear):
    calls = 0

    def wavering(self, flat, logits):
        self.calls += 1
        return logits + 1e-4 * self.calls


class CoinOfTheBatch(Linear):
    def wavering(self, flat, logits):
        return logits * (1.0 if random.random() < 0.5 else 0.99)


def certifier_of(kind, seed, monkeypatch):
    """A network that is one fixed function while it is loaded, and wavers from then on."""
    monkeypatch.setenv("SPACTE_KERNELS", "off")  # with kernels, a network that is traced stays as it was loaded
    monkeypatch.setattr(f"{__name__}.ARMED", False)
    torch.manual_seed(seed)
    random.seed(seed)
    known = {"sigma": 0.25, "num_classes": CLASSES, "input_shape": SHAPE}
    certifier = LocalCertifier(balanced(kind(), seed), **known, precision="fp32", device="cpu", batch=32)
    assert certifier.engine.form.name == "plain"
    monkeypatch.setattr(f"{__name__}.ARMED", True)
    return certifier


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "k_consensus"),
    [(RandomNoise, None), (Attention, None), (MeanOfTheBatch, None), (CallCounter, None), (MeanOfTheBatch, 1)],
)
def test_a_network_that_wavers_once_it_is_loaded_gets_no_certificate(kind, k_consensus, monkeypatch):
    certifier = certifier_of(kind, 0, monkeypatch)
    for _ in range(20):
        with pytest.raises(NotOneFunctionError):
            certifier.certify(PIXELS, n0=50, n=200, k_consensus=k_consensus)


@pytest.mark.slow
def test_a_coin_for_each_batch_is_found_out_in_every_second_certificate(monkeypatch):
    certifier, refused = certifier_of(CoinOfTheBatch, 0, monkeypatch), 0
    for _ in range(40):
        try:
            certifier.certify(PIXELS, n0=50, n=200)
        except NotOneFunctionError:
            refused += 1
    assert 10 <= refused <= 30


@pytest.mark.slow
@pytest.mark.parametrize("k_consensus", [None, 1])
@pytest.mark.parametrize("n0", [1, 100])
def test_one_fixed_function_is_certified(n0, k_consensus, monkeypatch):
    certificate = certifier_of(Linear, 0, monkeypatch).certify(PIXELS, n0=n0, n=500, k_consensus=k_consensus)
    assert certificate.redrawn == min(n0, REDRAWN)
