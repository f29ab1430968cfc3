"""CIFAR-10 with ResNet-20, sized for a CPU: 28 epochs of two to three minutes on two cores. All ours.

The objectives keep the settings that are published for ResNet-110, but for SPACTE-Gaussian's. Under the published
threshold for sigma 0.25 this small network finds two samples in five hard, in every epoch, and learns half as much from
them; here the threshold stays where it begins, at the loss of a guess. Like the single model it draws one noise a
sample: in the same time it sees twice as many crops and flips.
"""

from spacte_trainer.config import TrainConfig
from spacte_trainer.objectives import spacte
from spacte_trainer.schedules import OneCycleSchedule

from . import cifar10
from .base import add_recipes
from .methods import SIGMAS, gaussian, heads_of, naive_ensemble

FAMILY = "cifar10-resnet20"

LAMBDA_LAST = 2.3
"""lambda_T of SPACTE-Gaussian, at every sigma; the first epoch's is ln 10."""

MEMBERS = 5
"""As many as SPACTE has heads."""


def configuration(method: str, sigma: float) -> TrainConfig:
    """ResNet-20 for 28 epochs under a one-cycle schedule, or an ensemble of them."""
    if method.startswith("ensemble-"):
        return naive_ensemble(configuration(method.removeprefix("ensemble-"), sigma), MEMBERS)
    config = cifar10.single(method, sigma)
    changes = {
        "recipe": f"{FAMILY}-{method}-{sigma}",
        "model": cifar10.network(20, heads_of(method)),
        "optimizer": config.optimizer.model_copy(update={"lr": 0.2}),
        "schedule": OneCycleSchedule(),
        "epochs": 28,
    }
    if method == "spacte-gaussian":
        changes["objective"] = spacte(gaussian(sigma), LAMBDA_LAST)
    return config.model_copy(update=changes)


add_recipes(
    FAMILY,
    configuration,
    {
        "spacte-gaussian": "SPACTE-Gaussian, ResNet-20 with five heads, CPU-sized.",
        "spacte-consistency": "SPACTE-Consistency, ResNet-20 with five heads, CPU-sized.",
        "spacte-smoothmix": "SPACTE-SmoothMix, ResNet-20 with five heads; five times the work of Gaussian.",
        "gaussian": "Gaussian augmentation, one ResNet-20, CPU-sized.",
        "consistency": "Consistency, one ResNet-20, CPU-sized.",
        "smoothmix": "SmoothMix, one ResNet-20, CPU-sized.",
        "ensemble-gaussian": "Naive ensemble of five Gaussian ResNet-20s, CPU-sized.",
    },
    SIGMAS,
)
