"""CIFAR-10 in about an hour on two cores, with the network of `cifar_fast`. All ours.

Gaussian training under a one-cycle schedule; Consistency goes on from there for a few epochs at a lower rate, which
costs far less than regularising from the first step. One noise a sample in Gaussian training, as for ResNet-20. All
learn by Muon, with flips that alternate (benchmarks/results/fast_recipe.md).
"""

from spacte_core.models import ModelConfig, Normalization
from spacte_trainer.config import MuonConfig, OptimizerConfig, TrainConfig
from spacte_trainer.objectives import spacte
from spacte_trainer.schedules import OneCycleSchedule

from . import cifar10
from .base import add_recipes
from .cifar10_resnet20 import LAMBDA_LAST
from .methods import HEADS, SIGMAS, gaussian, heads_of, naive_ensemble

FAMILY = "cifar10-fast"
WIDTH = 256
MEMBERS = 3

GAUSSIAN_EPOCHS = {"gaussian": 38, "spacte-gaussian": 14}
"""On two cores with AVX-512 BF16 those of a single network take about 55 minutes; a step of five heads takes twice one
of it."""

CONSISTENCY_EPOCHS = {"consistency": 10, "spacte-consistency": 5}
"""After those of Gaussian; each draws two noises a sample."""


RATE = {1: 0.4, HEADS: 0.15}
"""Peak learning rate of what SGD trains, by heads. The losses of heads are summed here: under their mean a head moves
by a fifth of its gradient, and in few epochs of SGD alone it learns less (after four of 15,000 images: 47.0 % noisy
accuracy at a rate of .4, and 51.5 % under the sum at .15)."""

MUON = MuonConfig(lr=0.05, momentum=0.9, steps=3)
"""Consistency goes on at a quarter of the rate, since Muon leaves weights of a norm that SGD's rate is not made for.
After six epochs of 25,000 images a single network of half the width has 64.4 % noisy accuracy by SGD, 66.9 % at a rate
of .1, and 67.7 % at .05; with flips that alternate, 68.5 %. Five heads learn by the same, so that nothing but heads and
teaching tells them from one network (benchmarks/results/cifar10_fast_teaching.md)."""


def network(heads: int) -> ModelConfig:
    """The wide network."""
    return ModelConfig(
        arch=f"cifar_fast{WIDTH}",
        heads=heads,
        num_classes=10,
        input_shape=(3, 32, 32),
        normalization=Normalization.of("cifar10", "standard"),
    )


def configuration(method: str, sigma: float) -> TrainConfig:
    """Gaussian training from scratch, Consistency from its weights, or a naive ensemble."""
    if method.startswith("ensemble-"):
        return naive_ensemble(configuration(method.removeprefix("ensemble-"), sigma), MEMBERS)
    heads, goes_on = heads_of(method), method not in GAUSSIAN_EPOCHS
    config, share = cifar10.single(method, sigma), 0.25 if goes_on else 1
    optimizer = OptimizerConfig(
        lr=share * RATE[heads],
        momentum=0.9,
        weight_decay=5e-4,
        nesterov=True,
        muon=MUON.model_copy(update={"lr": share * MUON.lr}),
    )
    changes = {
        "recipe": f"{FAMILY}-{method}-{sigma}",
        "model": network(heads),
        "data": config.data.model_copy(update={"flip": "alternate"}),
        "optimizer": optimizer,
        "schedule": OneCycleSchedule(rise=0.2),
        "batch": 500,
    }
    objective = spacte(gaussian(sigma), LAMBDA_LAST) if method == "spacte-gaussian" else config.objective
    changes["objective"] = objective.model_copy(update={"over_heads": "sum"})
    if goes_on:
        changes["epochs"], changes["batch"] = CONSISTENCY_EPOCHS[method], 1000  # two steps of 500 a batch
        changes["pretrain"] = configuration(method.replace("consistency", "gaussian"), sigma)
    else:
        changes["epochs"] = GAUSSIAN_EPOCHS[method]
    return config.model_copy(update=changes)


add_recipes(
    FAMILY,
    configuration,
    {
        "spacte-gaussian": "SPACTE-Gaussian, wide network with five heads, about an hour on two cores.",
        "spacte-consistency": "SPACTE-Consistency after SPACTE-Gaussian, wide network with five heads.",
        "gaussian": "Gaussian augmentation, one wide network.",
        "consistency": "Consistency after Gaussian augmentation, one wide network.",
        "ensemble-gaussian": "Naive ensemble of three wide Gaussian networks.",
    },
    SIGMAS,
)
