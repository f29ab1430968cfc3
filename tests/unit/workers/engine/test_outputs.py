"""Promise: logits and gradients are of the same noises as the votes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from spacte_workers.engine import Engine
from spacte_workers.shards import Image, NoiseSource, Phase, Shard

SHAPE, CLASSES = (3, 8, 8), 5
SOURCE = NoiseSource("ab" * 16, 0, 0.25, "float")


class TwoHeads(torch.nn.Module):
    """Two linear heads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.left, self.right = torch.nn.Linear(192, CLASSES), torch.nn.Linear(192, CLASSES)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Logits of each head."""
        return [self.left(x.flatten(1)), self.right(x.flatten(1))]


@pytest.fixture(scope="module")
def engine() -> Engine:
    """Of two heads."""
    return Engine(TwoHeads(), input_shape=SHAPE, num_classes=CLASSES, precision="fp32")


def _image(pixels: np.ndarray) -> Image:
    return Image(pixels.astype(np.float32).tobytes(), SHAPE, "float32")


PIXELS = np.random.default_rng(0).random(SHAPE)


def test_the_logits_give_the_votes_whatever_shares_a_call(engine: Engine) -> None:
    logits = replace(SOURCE, output="logits")
    whole = engine.votes(_image(PIXELS), Shard(logits, Phase.SCORES, 0, 90))
    counted = engine.votes(_image(PIXELS), Shard(SOURCE, Phase.SCORES, 0, 90))
    parts = engine.votes_many([(_image(PIXELS), Shard(logits, Phase.SCORES, start, start + 45)) for start in (0, 45)])
    assert whole.logits_NK is not None
    assert whole.counts == counted.counts
    assert tuple(np.bincount(whole.logits_NK.argmax(1), minlength=CLASSES)) == counted.counts
    assert np.array_equal(whole.logits_NK, np.concatenate([part.logits_NK for part in parts]))


def test_the_gradient_is_the_slope_of_the_mean_probability(engine: Engine) -> None:
    rows = 40

    def probability(pixels: np.ndarray) -> float:
        shard = Shard(replace(SOURCE, output="logits"), Phase.ATTACK, 0, rows)
        logits_NK = engine.votes(_image(pixels), shard).logits_NK
        assert logits_NK is not None
        exponents = np.exp(2 * logits_NK.astype(np.float64))  # of the sum of two heads
        return float((exponents[:, 2] / exponents.sum(1)).sum())

    source = replace(SOURCE, output="gradient", label=2)
    gradient_CHW = engine.votes(_image(PIXELS), Shard(source, Phase.ATTACK, 0, rows)).gradient_CHW
    assert gradient_CHW is not None
    direction = gradient_CHW / np.linalg.norm(gradient_CHW)
    slope = (probability(PIXELS + 0.01 * direction) - probability(PIXELS - 0.01 * direction)) / 0.02
    assert slope == pytest.approx(float(np.linalg.norm(gradient_CHW)), rel=0.02)
