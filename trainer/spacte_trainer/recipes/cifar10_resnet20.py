"""CIFAR-10 with ResNet-20, sized for a CPU: 28 epochs of two to three minutes on two cores. All ours.

The objectives keep the settings that are published for ResNet-110, but for SPACTE-Gaussian's. Under the published
threshold for sigma 0.25 so small a network finds two samples in five hard, in the last epoch as in the first ones, and
halves what it would learn from them; here the threshold stays where it begins, at the loss of a guess. And it draws one
noise a sample, as the single model does: in the same time it sees twice as many crops and flips.
"""

from spacte_trainer.config import OneCycleSchedule, TrainConfig
from spacte_trainer.objectives import ObjectiveConfig, spacte

from .base import recipe
from .cifar10 import HEADS, cifar10, network
from .methods import OBJECTIVES, SIGMAS, SPACTE
from .methods import gaussian as one_draw

LAMBDA_LAST = 2.3
"""lambda_T of SPACTE-Gaussian, at every sigma; the first epoch's is ln 10."""


def short(method: str, objective: ObjectiveConfig, sigma: float, *, heads: int = 1) -> TrainConfig:
    """ResNet-20 for 28 epochs under a one-cycle schedule."""
    config = cifar10(method, objective, sigma, heads=heads)
    return config.model_copy(
        update={
            "recipe": f"cifar10-resnet20-{method}-{sigma}",
            "model": network(20, heads),
            "optimizer": config.optimizer.model_copy(update={"lr": 0.2}),
            "schedule": OneCycleSchedule(),
            "epochs": 28,
        }
    )


@recipe("cifar10-resnet20-spacte-gaussian", SIGMAS)
def spacte_gaussian(sigma: float) -> TrainConfig:
    """SPACTE-Gaussian, ResNet-20 with five heads, CPU-sized."""
    return short("spacte-gaussian", spacte(one_draw(sigma), LAMBDA_LAST), sigma, heads=HEADS)


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
