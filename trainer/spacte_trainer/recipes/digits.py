"""The embedded digits: every method, sized for about a minute on one core. All settings are ours.

The strengths published for CIFAR-10 do not carry over. From one of 1,400 images to the nearest one of another class
it is a median L2 distance of 10.5 there and of 1.87 here, so that SmoothAdv's published radius, 1 at sigma .25 and 2
at .5, passes the middle between two classes or reaches the other one, and noise of sd .25 is what 1.4 would be on
CIFAR-10. `STRENGTHS` has settings of the digits' own.
"""

from collections.abc import Mapping

from spacte_core.data.base import DataConfig
from spacte_core.models import ModelConfig, Normalization
from spacte_trainer.config import OptimizerConfig, TrainConfig, override
from spacte_trainer.objectives import Drt
from spacte_trainer.schedules import OneCycleSchedule

from .base import add_recipes
from .cifar10 import fine_tuned_drt
from .methods import heads_of, naive_ensemble, objective

FAMILY = "digits"

MEMBERS = 5
"""As many as SPACTE has heads."""

SMOOTHMIX: Mapping[str, object] = {"objective.base.alpha": 0.5, "objective.base.mix_step": 0}
SMOOTHADV: Mapping[str, object] = {
    "objective.base.draws": 2,
    "objective.base.attack.steps": 4,
    "objective.base.attack.epsilon": 0.25,
}
MACER: Mapping[str, object] = {"batch": 32, "objective.base.draws": 8}
"""What does not depend on sigma."""

STRENGTHS: Mapping[str, Mapping[float, Mapping[str, object]]] = {
    "gaussian": {0.25: {}, 0.5: {}},
    "consistency": {0.25: {"objective.base.lbd": 5.0}, 0.5: {"objective.base.lbd": 2.5}},
    "smoothmix": {0.25: SMOOTHMIX, 0.5: SMOOTHMIX},
    "smoothadv": {0.25: SMOOTHADV, 0.5: SMOOTHADV},
    "macer": {0.25: {**MACER, "objective.base.lbd": 3.0}, 0.5: {**MACER, "objective.base.lbd": 1.0}},
}
"""What the digits change of a method's objective, by method and sigma; the single model and the taught form share it.

Consistency and MACER have a quarter of the weights published for CIFAR-10, SmoothAdv a quarter of the radius that is
published for sigma .25. Distances between images do not grow with the noise, and radii do not either: SmoothAdv keeps
that one, and SmoothMix the steps of 1/2 from the clean image that are published for .25. For time, SmoothAdv
attacks with 2 draws and 4 steps, and MACER takes 8 draws. Its batch of 32 is not cut, so that it makes as
many steps an epoch as the others, whose 64 are cut in two.

Chosen on single models, trained with seed 0 on four fifths of the training split, by their average certified radius on
the other fifth (1,000 noises); Gaussian has .484 at sigma .25 and .388 at .5. A star marks half of the epochs.

    Consistency  lbd 5, 10, 20 at .25: .511, .507, .505; lbd 2, 5, 10 at .5: .417, .406, .108 (one class)
    SmoothMix    as here at .5: .437
    SmoothAdv    as here: .509* at .25, .430 at .5
    MACER        lbd 2 at .25: .468*, as 12 at a fifth of the rate: .461*; lbd 1 at .5: .346*, .357* as here

Not on the test split, and not on what a setting does to the taught form.
"""


TEACHING: Mapping[str, Mapping[float, Mapping[str, object]]] = {
    "smoothadv": {0.25: {"objective.teaching.lambda_last": 2.2}, 0.5: {"objective.teaching.lambda_last": 1.2}},
    "macer": {0.25: {"objective.teaching.lambda_last": 1.8}, 0.5: {"objective.teaching.lambda_last": 1.1}},
}
"""lambda_T where none is published.

Their smoothed cross-entropy is higher than Gaussian's: SmoothAdv's is taken on adversaries, and MACER averages
probabilities before the logarithm, so that single draws may be wrong at a high price. Under Gaussian's lambda_T more
samples were hard, up to whole classes, which were then given up. With these as many training samples of the **single**
model are easy at the end as there are for Gaussian with its own: 98 % at sigma .25, 66 % at .5 (seed 0, 20 epochs).
"""


def single(method: str, sigma: float) -> TrainConfig:
    """One network: 40 epochs of batches of 64 under a one-cycle schedule, on one core.

    The settings are those of 0.25 or 0.5, whichever is nearer to `sigma`.
    """
    known = min((0.25, 0.5), key=lambda level: abs(level - sigma))
    config = TrainConfig(
        recipe=f"{FAMILY}-{method}",
        method=method,
        data=DataConfig(source="digits"),
        model=ModelConfig(
            arch="digits_cnn",
            heads=heads_of(method),
            num_classes=10,
            input_shape=(1, 8, 8),
            normalization=Normalization.of("digits"),
        ),
        objective=objective(method, known),
        sigma=sigma,
        optimizer=OptimizerConfig(lr=0.1),
        schedule=OneCycleSchedule(),
        epochs=40,
        batch=64,
        precision="float32",
        threads=1,
    )
    base = method.removeprefix("spacte-")
    teaching = {} if base == method else TEACHING.get(base, {}).get(known, {})
    return override(config, {**STRENGTHS[base][known], **teaching})


def configuration(method: str, sigma: float) -> TrainConfig:
    """A single network, `ensemble-` or `drt-` of several."""
    if method.startswith("ensemble-"):
        return naive_ensemble(single(method.removeprefix("ensemble-"), sigma), MEMBERS)
    if method.startswith("drt-"):
        return fine_tuned_drt(single(method.removeprefix("drt-"), sigma), Drt(), epochs=20, drops_after=(8, 16))
    return single(method, sigma)


add_recipes(
    FAMILY,
    configuration,
    {
        "gaussian": "Gaussian augmentation, one network.",
        "consistency": "Consistency, one network.",
        "smoothmix": "SmoothMix, one network.",
        "smoothadv": "SmoothAdv, one network.",
        "macer": "MACER, one network.",
        "spacte-gaussian": "SPACTE-Gaussian with five heads: the model of the demo.",
        "spacte-consistency": "SPACTE-Consistency with five heads.",
        "spacte-smoothmix": "SPACTE-SmoothMix with five heads.",
        "spacte-smoothadv": "SPACTE over SmoothAdv with five heads (unpublished).",
        "spacte-macer": "SPACTE over MACER with five heads (unpublished).",
        "ensemble-gaussian": "Naive ensemble of five Gaussian networks.",
        "drt-gaussian": "DRT: three Gaussian networks, trained apart and then together.",
    },
)
