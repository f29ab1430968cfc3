"""A small network with several heads, its image and its engine, for the tests of the engine."""

import numpy as np
import torch
from torch import nn

from spacte_workers.engine import Engine
from spacte_workers.engine.calibration import noisy_rows
from spacte_workers.engine.decomposition import decompose
from spacte_workers.images import from_array
from spacte_workers.shards import NoiseSource

SOURCE = NoiseSource("0123456789abcdef0123456789abcdef", 0, 0.25, "grid")
SHAPE = (2, 6, 5)
CLASSES = 4


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


class Convolutions(nn.Module):
    """A network that kernels of our own can speed up."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Flatten(),
            nn.Linear(1024, 5),
        )  # fmt: skip

    def forward(self, x):
        return self.layers(x)


def convolutions():
    """The network taken apart, and noisy rows for it."""
    torch.manual_seed(0)
    net = Convolutions().eval().requires_grad_(requires_grad=False)
    rows = noisy_rows((3, 8, 8), 0.25, 256)
    return decompose(net, rows[:2], 5), rows


def on_threads(count):
    """What a fixture does that gives tests so many threads; what it yields sets another number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield torch.set_num_threads
    torch.set_num_threads(before)
