"""Promise: fixed seeds and a fixed small classifier give the recorded counts, whatever changes inside.

The classifier works on whole steps of 1/255 with weights that are multiples of 1/8, so that its arithmetic
is exact in any order of summation: the counts are the same on any CPU. If one of these fails, replays of
old certificates fail too.
"""

import numpy as np
import pytest
import torch
from torch import nn

from spacte_core.kernels.cpu.targets import TARGETS, VARIABLE
from spacte_workers import LocalCertifier
from spacte_workers.certification.canonical import digest, request_in
from spacte_workers.engine import Engine
from spacte_workers.images import from_array
from spacte_workers.shards import NoiseSource, Phase, Shard

pytestmark = pytest.mark.slow

SHAPE = (1, 8, 8)
SEED = "c0ffee00" * 4
REQUEST = "0123456789abcdef" * 4
GOLDEN = {("grid", None): (739, 3574, 0, 687), ("grid", 2): (779, 3556, 0, 665), ("float", None): (753, 3495, 0, 752)}

GOLDEN_2 = {"grid": (759, 3565, 0, 676), "float": (739, 3530, 0, 731)}


class Stripes(nn.Module):
    """Three heads; each class of a head looks at stripes of the image."""

    def __init__(self):
        super().__init__()
        places = torch.arange(64)
        self.heads = [
            torch.stack([((places * (k + 3) // (h + 2)) % 5 - 2).float() / 8 for k in range(4)]) for h in range(3)
        ]

    def forward(self, x):
        steps = (x * 255).round()
        return [steps.flatten(1) @ weight.T for weight in self.heads]


@pytest.fixture(scope="module")
def image():
    return from_array((np.arange(64) * 23 % 256).astype(np.uint8).reshape(SHAPE), input_shape=SHAPE)


@pytest.mark.parametrize(("noise", "k"), GOLDEN)
@pytest.mark.parametrize("batch", [64, 96])
def test_counts(image, noise, k, batch):
    engine = Engine(Stripes(), input_shape=SHAPE, num_classes=4, precision="fp32", device="cpu", batch=batch)
    shard = Shard(NoiseSource(SEED, 1, 0.5, noise, k), Phase.ESTIMATION, 100, 5_100)
    counts = engine.votes(image, shard).counts
    if noise == "grid":
        assert counts == GOLDEN[noise, k]
    else:  # logarithms and cosines may differ in the last place between C libraries
        assert sum(abs(a - b) for a, b in zip(counts, GOLDEN[noise, k], strict=True)) <= 4


@pytest.mark.parametrize(("noise", "golden"), GOLDEN_2.items())
def test_counts_whose_request_is_bound(image, noise, golden):
    engine = Engine(Stripes(), input_shape=SHAPE, num_classes=4, precision="fp32", device="cpu", batch=64)
    source = NoiseSource(SEED, 1, 0.5, noise, request_digest=REQUEST)
    counts = engine.votes(image, Shard(source, Phase.ESTIMATION, 100, 5_100)).counts
    assert sum(abs(a - b) for a, b in zip(counts, golden, strict=True)) <= (0 if noise == "grid" else 4)


class Layers(nn.Module):
    """Convolutions that our own kernels compute, with weights that look random and are multiples of 1/64."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(inputs, 16, 3, padding=1) for inputs in (1, 16, 16))
        self.fc = nn.Linear(16, 4)
        with torch.no_grad():
            for i, layer in enumerate((*self.convs, self.fc)):
                for part in (layer.weight, layer.bias):
                    places = torch.arange(part.numel(), dtype=torch.int64) + 7_919 * i
                    looks_random = (places * 2_654_435_761 >> 16) % 65 - 32
                    part.copy_((looks_random.float() / 64).reshape(part.shape) / (1 + 2 * (0 < i < 3)))
            self.fc.bias.copy_(torch.tensor([0.282, 0.083, -0.254, -0.582]))  # all classes get votes

    def forward(self, x):
        first, second, third = self.convs
        h = torch.relu(first(x - 0.5))
        h = torch.relu(third(torch.relu(second(h))) + h)
        return self.fc(h.mean((2, 3)))


CODES = (1667, 1200, 399, 1734)
OURS = {
    ("fp32", "winograd"): (1643, 1185, 389, 1783),
    ("bf16", "amx"): (1529, 1222, 408, 1841),
    ("bf16", "chain_avx512"): (1575, 1194, 395, 1836),
    **{("int8", target.form): CODES for target in TARGETS},
}
"""By precision and form: sums of codes are exact, so that every target counts the same."""


@pytest.mark.parametrize(("precision", "form"), OURS)
def test_counts_of_our_own_kernels(image, monkeypatch, precision, form):
    """bfloat16 and codes round on the way, always alike; float32 does so far from where it would matter."""
    for target in TARGETS:
        if target.form == form:
            if target.library(torch.uint8) is None:
                pytest.skip(f"no {target.name} here")
            monkeypatch.setenv(VARIABLE, target.name)
    engine = Engine(
        Layers(), input_shape=SHAPE, num_classes=4, precision=precision, device="cpu", batch=64, min_agreement=0.5
    )
    if not engine.kernels.startswith(form + "/"):
        pytest.skip(f"no {form} kernels here: {engine.kernels}")
    shard = Shard(NoiseSource(SEED, 1, 0.5, "grid"), Phase.ESTIMATION, 100, 5_100)
    assert engine.votes(image, shard).counts == OURS[precision, form]


def test_a_certificate():
    pixels = (np.arange(64) * 23 % 256).astype(np.uint8).reshape(SHAPE)
    certifier = LocalCertifier(
        Stripes(), sigma=0.5, num_classes=4, input_shape=SHAPE, precision="fp32", device="cpu", batch=64
    )
    certificate = certifier.certify(pixels, n0=50, n=2_000, alpha=0.01, seed=SEED)
    # The request names the kernels, so that its noise is this machine's.
    source = NoiseSource(SEED, 0, 0.5, "grid", request_digest=digest(request_in(certificate)))
    image = from_array(pixels, input_shape=SHAPE)
    votes = [certifier.engine.votes(image, Shard(source, phase, 0, n)) for phase, n in ((0, 50), (1, 2_000))]
    assert [list(vote.counts) for vote in votes] == [certificate.selection_counts, certificate.counts]
    assert certificate.label == 1
    assert certificate.image_sha256 == "66a81bc72aba560adff8d996d447b91bad69c713178941c7afef28b7654fd11b"
