"""Promise: what is carried over to another classifier is false no oftener than alpha."""

import numpy as np
import pytest
from scipy.stats import binomtest

from spacte_workers.statistics.bounds import clopper_pearson_lower, radius
from spacte_workers.statistics.disagreement import carried_lower

RUNS = 20_000


def _claims(p: float, zeta: float, n: int, pairs: int, alpha: float) -> np.ndarray:
    generator = np.random.default_rng(11)
    successes = generator.binomial(n, p, RUNS)
    differences = generator.binomial(pairs, zeta, RUNS)
    return carried_lower(successes, n, differences, pairs, alpha)


@pytest.mark.parametrize(("p", "zeta"), [(0.6, 0.0), (0.6, 0.05), (0.9, 0.01), (0.99, 0.2), (0.999, 0.001)])
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_false_claims_are_no_oftener_than_alpha(p: float, zeta: float, alpha: float) -> None:
    """The worst new classifier: it loses every vote on which the two differ."""
    false = int((_claims(p, zeta, 1_000, 300, alpha) > p - zeta).sum())
    assert binomtest(false, RUNS, alpha, alternative="greater").pvalue > 1e-4


def test_a_bound_that_forgets_the_differences_would_be_caught() -> None:
    false = int((clopper_pearson_lower(np.random.default_rng(1).binomial(1_000, 0.9, RUNS), 1_000, 0.05) > 0.85).sum())
    assert binomtest(false, RUNS, 0.05, alternative="greater").pvalue < 1e-4


def test_few_pairs_keep_most_of_a_radius() -> None:
    kept = radius(carried_lower(90_000, 100_000, 0, 2_000, 0.001), 1.0)
    assert float(kept) > 0.98 * float(radius(clopper_pearson_lower(90_000, 100_000, 0.001), 1.0))
    assert float(carried_lower(10, 10, 10, 10, 0.001)) == 0.0
