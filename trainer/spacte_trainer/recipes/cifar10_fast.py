"""CIFAR-10 in about an hour on two cores, with the network of `cifar_fast`. All ours.

Gaussian training under a one-cycle schedule; Consistency goes on from there for a few epochs at a lower rate and with
a fraction of the published strength, which costs far less than regularising from the first step. One noise a sample in
Gaussian training, as for ResNet-20. All learn by Muon, with flips that alternate (benchmarks/results/fast_recipe.md).
"""

from spacte_core.models import ModelConfig, Normalization
from spacte_trainer.config import MuonConfig, OptimizerConfig, TrainConfig
from spacte_trainer.objectives import Objective, spacte
from spacte_trainer.schedules import OneCycleSchedule

from . import cifar10
from .base import add_recipes
from .cifar10_resnet20 import LAMBDA_LAST
from .methods import HEADS, SIGMAS, consistency, gaussian, heads_of, naive_ensemble

FAMILY = "cifar10-fast"
WIDTH = 256
MEMBERS = 3

GAUSSIAN_EPOCHS = {"gaussian": 50, "spacte-gaussian": 18}
"""On two cores of an AMD EPYC (Zen 4) those of a single network take 46 minutes; a step of five heads takes twice one
of it."""

CONSISTENCY_EPOCHS = {"consistency": 7, "spacte-consistency": 3}
"""After those of Gaussian; each draws two noises a sample, and takes twice the time."""

CONSISTENCY_LBD = 4.0
"""Published for 150 epochs from scratch are 10 and 20. Two epochs at 10 after Gaussian training take two points of
noisy accuracy (benchmarks/results/fast_recipe.md). Chosen at sigma .25, and not measured at others."""

RATE = {1: 0.4, HEADS: 0.15}
"""Peak learning rate of what SGD trains, by heads. The losses of heads are summed here: under their mean a head moves
by a fifth of its gradient, and in few epochs of SGD alone it learns less (after four of 15,000 images: 47.0 % noisy
accuracy at a rate of .4, and 51.5 % under the sum at .15)."""

MUON = MuonConfig(lr=0.035, momentum=0.9, steps=3)
"""After six epochs of 25,000 images a single network of half the width has 64.4 % noisy accuracy by SGD, 66.9 % at a
rate of .1, and 67.7 % at .05; with flips that alternate, 68.5 %. In the 32 epochs of the wide network at .05 the loss
stood still for eight of them near the peak: hence the lower one, which was not compared with it at that length."""

MUON_AFTERWARDS = MUON.model_copy(update={"lr": 0.0125})
"""Of Consistency; SGD goes on at a fortieth of its rate."""


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
    config = cifar10.single(method, sigma)
    optimizer = OptimizerConfig(
        lr=RATE[heads] / 40 if goes_on else RATE[heads],
        momentum=0.9,
        weight_decay=5e-4,
        nesterov=True,
        muon=MUON_AFTERWARDS if goes_on else MUON,
    )
    changes = {
        "recipe": f"{FAMILY}-{method}-{sigma}",
        "model": network(heads),
        "data": config.data.model_copy(update={"flip": "alternate"}),
        "optimizer": optimizer,
        "schedule": OneCycleSchedule(rise=0.2),
        "batch": 500,
    }
    base = consistency(sigma).model_copy(update={"lbd": CONSISTENCY_LBD}) if goes_on else gaussian(sigma)
    objective = spacte(base, LAMBDA_LAST) if heads > 1 else Objective(base=base)
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
