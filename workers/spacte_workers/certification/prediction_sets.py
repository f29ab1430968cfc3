"""One robust prediction set: score the noises, keep the classes that reach the calibrated threshold."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from spacte_client.types import Noise, SetMethod, SetParams
from spacte_workers.shards import NoiseSource, Phase
from spacte_workers.statistics.prediction_sets import SetRule, bincp, rcp1

from .sampling_run import SingleLookRun
from .set_calibration import Calibration


def scores(logits_NK: NDArray[np.float32]) -> NDArray[np.float64]:
    """How well each class fits each row: the log-softmax of the mean head logits, float64 [N, K], at most 0.

    No class fits a row with a logit that is not finite: its scores are minus infinity.
    """
    finite_N = np.isfinite(logits_NK).all(1)
    scores_NK = np.full(logits_NK.shape, -np.inf)
    scores_NK[finite_N] = log_softmax(logits_NK[finite_N].astype(np.float64), axis=1)
    return scores_NK


@dataclass(frozen=True, slots=True)
class ScoreSpec:
    """The noises whose logits are wanted.

    Attributes:
        sigma: noise sd in units of [0, 1] pixels.
        num_classes: K.
        n: how many noises.
        noise, seed, image_index: which; `none` is the image itself.
    """

    sigma: float
    num_classes: int
    n: int
    noise: Noise | Literal["none"]
    seed: str
    image_index: int = 0


class LogitsRun(SingleLookRun[NDArray[np.float32]]):
    """One image on its way to the logits [N, K] of its noises, in the order of the noises."""

    def __init__(self, spec: ScoreSpec) -> None:
        source = NoiseSource(spec.seed, spec.image_index, spec.sigma, spec.noise, output="logits")
        super().__init__(source, Phase.SCORES, spec.n, spec.num_classes)

    def outcome(self) -> NDArray[np.float32]:
        """The logits; only when `done`."""
        return np.concatenate([part.logits_NK for part in self.parts if part.logits_NK is not None])


@dataclass(frozen=True, slots=True)
class SetSpec:
    """What is asked of a calibrated model.

    Attributes:
        rule: which classes are in the set.
        scores: the noises to score.
    """

    rule: SetRule
    scores: ScoreSpec

    @classmethod
    def from_params(
        cls, params: SetParams, calibration: Calibration, *, num_classes: int, seed: str, noise_error: float
    ) -> "SetSpec":
        """What a caller asks for.

        Args:
            params: as on the wire.
            calibration: of the model.
            num_classes: K.
            seed: 32 hex digits.
            noise_error: total variation between the noise as drawn and the Gaussian.
        """
        rule = rule_of(params.method, calibration, params.alpha, params.radius, noise_error)
        spec = ScoreSpec(calibration.sigma, num_classes, rule.samples, calibration.noise, seed)
        return cls(rule, spec)

    def labels(self, logits_NK: NDArray[np.float32]) -> list[int]:
        """The classes in the set, most probable first."""
        scores_NK = scores(logits_NK)
        mean_K = scores_NK.mean(0)
        return sorted(self.rule.labels(scores_NK), key=lambda label: -mean_K[label])


def rule_of(method: SetMethod, calibration: Calibration, alpha: float, radius: float, noise_error: float) -> SetRule:
    """Which classes are in the set at this level and radius (in units of [0, 1] pixels)."""
    shift = radius / calibration.sigma
    if method == "rcp1":
        return rcp1(calibration.scores_MN[:, 0], alpha=alpha, shift=shift, total_variation=noise_error)
    return bincp(calibration.scores_MN, alpha=alpha, shift=shift, total_variation=noise_error)
