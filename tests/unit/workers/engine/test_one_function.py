"""Promise: a module that is no fixed function is refused when it is loaded, however little it wavers."""

import random

import pytest
import torch
from tests.small_engine import SHAPE, balanced, engine_of
from torch import nn

from spacte_workers.engine import EngineError


class Wavering(nn.Module):
    """A linear network with something that a fixed function does not have."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(SHAPE[0] * SHAPE[1] * SHAPE[2], 4)

    def forward(self, x):
        return self.linear(x.flatten(1))


class RandomNoise(Wavering):
    def forward(self, x):
        logits = super().forward(x)
        return logits + 1e-3 * torch.randn_like(logits)


class Attention(Wavering):
    def forward(self, x):
        flat = x.flatten(1)
        weights = (flat @ flat.T).softmax(1)
        return super().forward(x) + 0.01 * weights @ self.linear(flat)


class MeanOfTheBatch(Wavering):
    def forward(self, x):
        logits = super().forward(x)
        return logits + 0.01 * logits.mean(0, keepdim=True)


class CoinOfTheBatch(Wavering):
    def forward(self, x):
        return super().forward(x) * (1.0 if random.random() < 0.5 else 0.99)


class CallCounter(Wavering):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) + 1e-4 * self.calls


@pytest.mark.parametrize("kind", [RandomNoise, MeanOfTheBatch, Attention, CoinOfTheBatch, CallCounter])
def test_it_is_refused(kind):
    for seed in range(20):
        torch.manual_seed(seed)
        random.seed(seed)
        net = balanced(kind(), seed)
        with pytest.raises(EngineError, match="fixed function"):
            engine_of(net)


def test_the_same_without_it_is_loaded():
    assert engine_of(balanced(Wavering())).batch == 32
