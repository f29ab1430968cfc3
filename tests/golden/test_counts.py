"""Promise: fixed seeds and a fixed small classifier give the recorded counts, whatever changes inside.

The classifier works on whole steps of 1/255 with weights that are multiples of 1/8, so that its arithmetic
is exact in any order of summation: the counts are the same on any CPU. If one of these fails, replays of
old certificates fail too.
"""

import numpy as np
import pytest
import torch
from torch import nn

from spacte_workers import LocalCertifier
from spacte_workers.engine import Engine
from spacte_workers.images import from_array
from spacte_workers.units import NoiseSource, Phase, Shard

SHAPE = (1, 8, 8)
SEED = "c0ffee00" * 4
GOLDEN = {
    ("grid", None): (739, 3574, 0, 687),
    ("grid", 2): (779, 3556, 0, 665),
    ("float", None): (753, 3495, 0, 752),
}


class Stripes(nn.Module):
    """Three heads; each class of a head looks at stripes of the image."""

    def __init__(self):
        super().__init__()
        places = torch.arange(64)
        self.heads = [
            torch.stack([((places * (k + 3) // (h + 2)) % 5 - 2).float() / 8 for k in range(4)])
            for h in range(3)
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


def test_a_certificate():
    pixels = (np.arange(64) * 23 % 256).astype(np.uint8).reshape(SHAPE)
    certifier = LocalCertifier(
        Stripes(), sigma=0.5, num_classes=4, input_shape=SHAPE, precision="fp32", device="cpu", batch=64
    )
    certificate = certifier.certify(pixels, n0=50, n=2_000, alpha=0.01, seed=SEED)
    assert certificate.selection_counts == [10, 34, 0, 6]
    assert certificate.counts == [317, 1400, 0, 283]
    assert (certificate.label, certificate.radius) == (1, 0.227618)
    assert certificate.image_sha256 == "66a81bc72aba560adff8d996d447b91bad69c713178941c7afef28b7654fd11b"
