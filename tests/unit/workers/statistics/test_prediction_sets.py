"""Promise: a robust prediction set holds the truth as often as it says, also where an adversary has moved the image."""

import math

import numpy as np
import pytest
from scipy.special import ndtr

from spacte_workers.statistics.prediction_sets import bincp, carried, needed, rcp1, threshold

ALPHA, CALIBRATION, TEST, SPLITS = 0.1, 200, 200, 1_000


def test_what_is_needed_keeps_the_level_when_it_is_carried() -> None:
    for p, shift, error in [(0.9, 0.5, 0.0), (0.9, 2.0, 1e-6), (0.999, 1.0, 1e-9), (0.6, 0.0, 0.0)]:
        assert float(carried(needed(p, shift, error), shift, error)) == pytest.approx(p, abs=1e-9)
    assert needed(1.0, 0.5) == math.inf
    assert float(carried(0.5, 1.0)) == pytest.approx(float(ndtr(-1.0)))


def test_the_threshold_has_the_rank_of_split_conformal_prediction() -> None:
    scores = np.arange(1, 20)  # 19 scores: of 20 exchangeable ones, 2 are below the second smallest with .1
    assert threshold(scores, 0.9) == 2
    assert threshold(scores, 0.95) == 1
    assert threshold(scores, 0.96) == -math.inf


def _coverage(method: str, shift: float, noises: int) -> float:
    """Mean coverage over splits; the worst perturbation of a linear classifier lowers every margin by the radius."""
    generator = np.random.default_rng(7)
    covered = 0.0
    for _ in range(SPLITS):
        margins = generator.normal(1.0, 1.0, CALIBRATION + TEST)
        scores = margins[:, None] + generator.normal(size=(CALIBRATION + TEST, noises))
        moved = scores[CALIBRATION:] - shift
        if method == "rcp1":
            rule = rcp1(scores[:CALIBRATION, 0], alpha=ALPHA, shift=shift)
        else:
            rule = bincp(scores[:CALIBRATION], alpha=ALPHA, shift=shift)
        covered += float(((moved >= rule.threshold).sum(1) >= rule.votes).mean())
    return covered / SPLITS


@pytest.mark.slow
@pytest.mark.parametrize(("method", "noises"), [("rcp1", 1), ("bincp", 150)])
@pytest.mark.parametrize("shift", [0.0, 0.5, 1.0])
def test_coverage_holds_under_the_worst_perturbation_of_a_linear_classifier(
    method: str, noises: int, shift: float
) -> None:
    deviation = math.sqrt(ALPHA * (1 - ALPHA) * (1 / TEST + 1 / CALIBRATION) / SPLITS)
    assert _coverage(method, shift, noises) >= 1 - ALPHA - 4 * deviation


def test_a_threshold_that_forgets_the_radius_would_be_caught() -> None:
    generator = np.random.default_rng(3)
    margins = generator.normal(1.0, 1.0, 4_000)
    scores = margins + generator.normal(size=4_000)
    rule = rcp1(scores[:2_000], alpha=ALPHA, shift=0.0)
    assert (scores[2_000:] - 1.0 >= rule.threshold).mean() < 1 - ALPHA - 0.05


def test_too_few_images_or_noises_give_every_class() -> None:
    scores = np.linspace(0, 1, 8)
    assert rcp1(scores, alpha=0.1, shift=1.0).labels([[0.2, 0.1, 0.7]]) == [0, 1, 2]
    assert bincp(scores[:, None], alpha=0.1, shift=1.0).labels([[0.2, 0.1, 0.7]]) == [0, 1, 2]
