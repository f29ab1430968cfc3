"""The embedded digits: every method, sized for about a minute on one core. All settings are ours.

The objectives keep what is published for CIFAR-10 at the nearest sigma, but SmoothAdv attacks with 2 draws and 4
steps and MACER takes 8 draws, so that they stay within a few minutes.
"""

from spacte_trainer.config import OneCycleSchedule, OptimizerConfig, TrainConfig, override
from spacte_trainer.data.base import DataConfig
from spacte_trainer.models import ModelConfig, Normalization
from spacte_trainer.objectives import DrtConfig, ObjectiveConfig
from spacte_trainer.recipes.base import recipe
from spacte_trainer.recipes.cifar10 import fine_tuned_drt
from spacte_trainer.recipes.methods import OBJECTIVES, SPACTE

HEADS = 5


def network(heads: int) -> ModelConfig:
    """The small CNN."""
    return ModelConfig(
        arch="digits_cnn",
        heads=heads,
        num_classes=10,
        input_shape=(1, 8, 8),
        normalization=Normalization.of("digits"),
    )


def digits(method: str, objective: ObjectiveConfig, sigma: float, *, heads: int = 1) -> TrainConfig:
    """What all of these share: 40 epochs of batches of 64 under a one-cycle schedule, on one core."""
    return TrainConfig(
        recipe=f"digits-{method}",
        method=method,
        data=DataConfig(source="digits"),
        model=network(heads),
        objective=objective,
        sigma=sigma,
        optimizer=OptimizerConfig(lr=0.1),
        schedule=OneCycleSchedule(),
        epochs=40,
        batch=64,
        precision="float32",
        threads=1,
    )


def nearest(sigma: float) -> float:
    """The one of the noise levels 0.25 and 0.5, whose settings are used, that is closer to `sigma`."""
    return min((0.25, 0.5), key=lambda known: abs(known - sigma))


CHEAPER: dict[str, dict[str, object]] = {
    "smoothadv": {"objective.base.draws": 2, "objective.base.attack.steps": 4},
    "macer": {"objective.base.draws": 8},
}


def single(method: str, sigma: float) -> TrainConfig:
    """One network."""
    config = digits(method, OBJECTIVES[method](nearest(sigma)), sigma)
    return override(config, CHEAPER.get(method, {}))


def taught(method: str, sigma: float) -> TrainConfig:
    """SPACTE with five heads."""
    config = digits(f"spacte-{method}", SPACTE[method](nearest(sigma)), sigma, heads=HEADS)
    return override(config, CHEAPER.get(method, {}))


@recipe("digits-gaussian")
def gaussian(sigma: float) -> TrainConfig:
    """Gaussian augmentation, one network."""
    return single("gaussian", sigma)


@recipe("digits-consistency")
def consistency(sigma: float) -> TrainConfig:
    """Consistency, one network."""
    return single("consistency", sigma)


@recipe("digits-smoothmix")
def smoothmix(sigma: float) -> TrainConfig:
    """SmoothMix, one network."""
    return single("smoothmix", sigma)


@recipe("digits-smoothadv")
def smoothadv(sigma: float) -> TrainConfig:
    """SmoothAdv, one network."""
    return single("smoothadv", sigma)


@recipe("digits-macer")
def macer(sigma: float) -> TrainConfig:
    """MACER, one network."""
    return single("macer", sigma)


@recipe("digits-spacte-gaussian")
def spacte_gaussian(sigma: float) -> TrainConfig:
    """SPACTE-Gaussian with five heads: the model of the demo."""
    return taught("gaussian", sigma)


@recipe("digits-spacte-consistency")
def spacte_consistency(sigma: float) -> TrainConfig:
    """SPACTE-Consistency with five heads."""
    return taught("consistency", sigma)


@recipe("digits-spacte-smoothmix")
def spacte_smoothmix(sigma: float) -> TrainConfig:
    """SPACTE-SmoothMix with five heads."""
    return taught("smoothmix", sigma)


@recipe("digits-spacte-smoothadv")
def spacte_smoothadv(sigma: float) -> TrainConfig:
    """SPACTE over SmoothAdv with five heads (unpublished)."""
    return taught("smoothadv", sigma)


@recipe("digits-spacte-macer")
def spacte_macer(sigma: float) -> TrainConfig:
    """SPACTE over MACER with five heads (unpublished)."""
    return taught("macer", sigma)


@recipe("digits-ensemble-gaussian")
def ensemble_gaussian(sigma: float) -> TrainConfig:
    """Naive ensemble of five Gaussian networks."""
    return gaussian(sigma).model_copy(update={"method": "ensemble-gaussian", "members": HEADS})


@recipe("digits-drt-gaussian")
def drt_gaussian(sigma: float) -> TrainConfig:
    """DRT: three Gaussian networks, trained apart and then together."""
    return fine_tuned_drt(gaussian(sigma), DrtConfig(), members=3, epochs=20, drops_after=(8, 16))
