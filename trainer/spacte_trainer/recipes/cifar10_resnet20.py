"""CIFAR-10 with ResNet-20, sized for a CPU: 15 epochs of three to five minutes on two cores. All ours.

The objectives keep the settings that are published for ResNet-110.
"""

from spacte_trainer.config import OneCycleSchedule, TrainConfig
from spacte_trainer.objectives import ObjectiveConfig
from spacte_trainer.recipes.base import recipe
from spacte_trainer.recipes.cifar10 import HEADS, cifar10, network
from spacte_trainer.recipes.methods import OBJECTIVES, SIGMAS, SPACTE


def short(method: str, objective: ObjectiveConfig, sigma: float, *, heads: int = 1) -> TrainConfig:
    """ResNet-20 for 15 epochs under a one-cycle schedule."""
    return cifar10(method, objective, sigma, heads=heads).model_copy(
        update={
            "recipe": f"cifar10-resnet20-{method}-{sigma}",
            "model": network(20, heads),
            "schedule": OneCycleSchedule(),
            "epochs": 15,
        }
    )


@recipe("cifar10-resnet20-spacte-gaussian", SIGMAS)
def spacte_gaussian(sigma: float) -> TrainConfig:
    """SPACTE-Gaussian, ResNet-20 with five heads, CPU-sized."""
    return short("spacte-gaussian", SPACTE["gaussian"](sigma), sigma, heads=HEADS)


@recipe("cifar10-resnet20-spacte-consistency", SIGMAS)
def spacte_consistency(sigma: float) -> TrainConfig:
    """SPACTE-Consistency, ResNet-20 with five heads, CPU-sized."""
    return short("spacte-consistency", SPACTE["consistency"](sigma), sigma, heads=HEADS)


@recipe("cifar10-resnet20-spacte-smoothmix", SIGMAS)
def spacte_smoothmix(sigma: float) -> TrainConfig:
    """SPACTE-SmoothMix, ResNet-20 with five heads; five times the work of Gaussian."""
    return short("spacte-smoothmix", SPACTE["smoothmix"](sigma), sigma, heads=HEADS)


@recipe("cifar10-resnet20-gaussian", SIGMAS)
def gaussian(sigma: float) -> TrainConfig:
    """Gaussian augmentation, one ResNet-20, CPU-sized."""
    return short("gaussian", OBJECTIVES["gaussian"](sigma), sigma)


@recipe("cifar10-resnet20-consistency", SIGMAS)
def consistency(sigma: float) -> TrainConfig:
    """Consistency, one ResNet-20, CPU-sized."""
    return short("consistency", OBJECTIVES["consistency"](sigma), sigma)


@recipe("cifar10-resnet20-smoothmix", SIGMAS)
def smoothmix(sigma: float) -> TrainConfig:
    """SmoothMix, one ResNet-20, CPU-sized."""
    return short("smoothmix", OBJECTIVES["smoothmix"](sigma), sigma)


@recipe("cifar10-resnet20-ensemble-gaussian", SIGMAS)
def ensemble_gaussian(sigma: float) -> TrainConfig:
    """Naive ensemble of five Gaussian ResNet-20s, CPU-sized."""
    return gaussian(sigma).model_copy(update={"method": "ensemble-gaussian", "members": 5})
