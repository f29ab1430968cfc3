"""Promise: a row whose logits are not all finite votes for no class, in every form, for every way of counting."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from spacte_client.types import ABSTAIN
from spacte_core.votes import votes_of
from spacte_workers import LocalCertifier
from spacte_workers.certification.verify import check, replay
from spacte_workers.engine import Engine
from spacte_workers.images import from_array
from spacte_workers.shards import NoiseSource, Phase, Shard

pytestmark = pytest.mark.usefixtures("bf16_anywhere")

SHAPE, CLASSES, SIGMA = (3, 8, 8), 3, 0.1
BRIGHT, DARK, BETWEEN = 250, 20, 153
UNDEFINED = [math.nan, math.inf, -math.inf]


class UndefinedOnBright(nn.Module):
    """Heads that answer class 1, in convolutions; one of them gives `value` in one logit for bright images."""

    def __init__(self, value, heads=3, undefined_head=0):
        super().__init__()
        self.value, self.undefined_head = value, undefined_head
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
        self.out = nn.ModuleList(nn.Linear(16, CLASSES) for _ in range(heads))
        self.register_buffer("third", torch.tensor([[0.0, 0.0, 1.0]]))
        with torch.no_grad():
            for linear in self.out:
                linear.bias.copy_(torch.tensor([0.0, 9.0, 0.0]))

    def forward(self, x):
        features = self.stem(x).mean(dim=(2, 3))
        answers = [linear(features) for linear in self.out]
        over_N = x.mean(dim=(1, 2, 3)) - 0.6
        added_N = (
            (-over_N).sqrt() * 0 if math.isnan(self.value) else over_N.relu() * math.copysign(3e38, self.value) * 3e38
        )
        answers[self.undefined_head] = answers[self.undefined_head] + self.third * added_N[:, None]
        return answers


def image(value):
    return from_array(np.full(SHAPE, value, np.uint8), input_shape=SHAPE)


def shard(k=None, noise="grid"):
    return Shard(NoiseSource("ab" * 16, 0, SIGMA, noise, k), Phase.ESTIMATION, 0, 500)


@pytest.mark.parametrize("undefined", UNDEFINED)
def test_votes_of_rows(undefined):
    logits = torch.tensor([[0.0, 2.0, 1.0], [undefined, 2.0, 1.0], [0.0, 0.0, undefined], [3.0, 3.0, 0.0]])
    assert votes_of(logits).tolist() == [1, 3, 3, 0]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("undefined", UNDEFINED[:2])
def test_every_precision(precision, undefined):
    torch.manual_seed(0)
    net = UndefinedOnBright(undefined, heads=1)
    options = {"input_shape": SHAPE, "num_classes": CLASSES, "sigma": SIGMA, "device": "cpu", "batch": 64}
    dark = np.full((4, *SHAPE), DARK, np.uint8)
    engine = Engine(net, precision=precision, examples=dark, **options)
    bright, between = (engine.votes(image(value), shard()) for value in (BRIGHT, BETWEEN))
    assert (bright.counts, bright.invalid) == ((0, 0, 0), 500)
    assert between.counts == (0, 500 - between.invalid, 0)
    assert 100 < between.invalid < 400
    assert engine.votes(image(DARK), shard()).counts == (0, 500, 0)


@pytest.mark.parametrize(
    ("head", "k", "voted"), [(0, 1, False), (0, 2, False), (1, 2, False), (2, 2, True), (2, 3, False)]
)
def test_a_head_without_an_answer_agrees_with_none(head, k, voted):
    """Where the first k heads agree the others are not asked, so that theirs do not matter."""
    torch.manual_seed(0)
    net = UndefinedOnBright(math.nan, undefined_head=head)
    dark = np.full((4, *SHAPE), DARK, np.uint8)
    engine = Engine(net, input_shape=SHAPE, num_classes=CLASSES, sigma=SIGMA, device="cpu", batch=64, examples=dark)
    votes = engine.votes(image(BRIGHT), shard(k))
    assert (votes.counts, votes.invalid) == (((0, 500, 0), 0) if voted else ((0, 0, 0), 500))


@pytest.mark.parametrize("options", [{}, {"k_consensus": 2}, {"noise": "float"}, {"target_radius": 0.05}])
@pytest.mark.parametrize("undefined", UNDEFINED[:2])
def test_certificates_abstain_and_say_why(undefined, options):
    torch.manual_seed(0)
    net = UndefinedOnBright(undefined, heads=2)
    certifier = LocalCertifier(
        net, sigma=SIGMA, num_classes=CLASSES, input_shape=SHAPE, precision="fp32", device="cpu", batch=64
    )
    pixels = np.full(SHAPE, BRIGHT, np.uint8)
    certificate = certifier.certify(pixels, n0=50, n=500, **options)
    assert (certificate.label, certificate.radius) == (ABSTAIN, 0.0)
    assert (certificate.counts, certificate.invalid) == ([0, 0, 0], certificate.n)
    assert certificate.selection_counts == [0, 0, 0]
    assert check(certificate) == []
    assert replay(certificate, certifier.engine, image(BRIGHT)) == []
    options.pop("target_radius", None)
    predicted = certifier.predict(pixels, n=200, **options)
    assert (predicted.label, predicted.invalid, predicted.p_value) == (ABSTAIN, 200, 1.0)
    some = certifier.certify(np.full(SHAPE, BETWEEN, np.uint8), n0=50, n=500)
    assert 0 < some.invalid == some.n - sum(some.counts)
    assert check(some) == []
