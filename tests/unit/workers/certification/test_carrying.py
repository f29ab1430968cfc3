"""Promise: a certificate of the plain float32 network by other votes is true as often as it says, and checks out."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, norm
from torch import nn

from spacte_client.types import Certificate
from spacte_workers import LocalCertifier
from spacte_workers.certification.carrying import PAIRS_SHARE
from spacte_workers.certification.verify import check, replay
from spacte_workers.errors import BadParameterError
from spacte_workers.images import from_array
from spacte_workers.statistics.bounds import clopper_pearson_lower
from spacte_workers.statistics.disagreement import carried_lower

IMAGE = np.full((1, 4, 4), 100, np.uint8)
SEED = "1" * 32


def linear(**options: Any) -> LocalCertifier:
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    module[1].weight.data = torch.tensor([[1.0], [-1.0]]).repeat(1, 16)
    module[1].bias.data = torch.tensor([-6.001, 6.001])  # off the grid of sums, so that no noise is a tie
    return LocalCertifier(module, sigma=0.25, num_classes=2, input_shape=(1, 4, 4), **options)


pytestmark = pytest.mark.usefixtures("bf16_anywhere")


@pytest.fixture(scope="module")
def certificate(bf16_anywhere: None) -> Certificate:
    return linear(precision="bf16", min_agreement=0.0).certify(IMAGE, n=20_000, certify="fp32", seed=SEED)


def test_it_names_both_functions(certificate: Certificate) -> None:
    carried = certificate.carried
    assert carried is not None
    assert (certificate.precision, carried.precision) == ("fp32", "bf16")
    assert certificate.versions["kernels"].startswith("plain/")
    assert carried.kernels != certificate.versions["kernels"]
    assert (carried.pairs, carried.certificate) == (PAIRS_SHARE * 20_000, None)
    assert carried.differences > 0
    assert check(certificate) == []


def test_it_is_drawn_again_by_both(certificate: Certificate) -> None:
    image = from_array(IMAGE, input_shape=(1, 4, 4))
    voter, about = linear(precision="bf16", min_agreement=0.0).engine, linear(precision="fp32").engine
    assert replay(certificate, voter, image, about=about) == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"radius": 0.9}, "radius"),
        ({"bound": "two_class"}, "bound"),
        ({"looks": 2}, "carried"),
        ({"n_max": 4_000}, "carried"),
    ],
)
def test_a_restated_one_is_found(certificate: Certificate, changes: dict[str, Any], field: str) -> None:
    assert any(finding.startswith(field) for finding in check(certificate.model_copy(update=changes)))


@pytest.mark.parametrize(
    "options", [{"target_radius": 0.1}, {"tolerance": 0.1}, {"deadline_ms": 50}, {"bound": "two_class"}]
)
def test_what_does_not_go_with_it(options: dict[str, Any]) -> None:
    with pytest.raises(BadParameterError, match=f"leave out `{next(iter(options))}`"):
        linear().certify(IMAGE, n=100, certify="fp32", **options)


@pytest.mark.long
@pytest.mark.parametrize("zeta", [0.0, 0.004, 0.03])
@pytest.mark.parametrize("p", [0.6, 0.9, 0.99])
def test_it_is_false_no_oftener_than_alpha(p: float, zeta: float) -> None:
    """20,000 certificates of the worst reference: it loses every vote in which it differs."""
    n, alpha, runs = 1_000, 0.05, 20_000
    generator = np.random.default_rng(5)
    votes = generator.binomial(n, p, runs)
    found = generator.binomial(round(PAIRS_SHARE * n), zeta, runs)
    bound = carried_lower(votes, n, found, round(PAIRS_SHARE * n), alpha)
    false = int((bound > p - zeta).sum())
    assert binomtest(false, runs, alpha, alternative="greater").pvalue > 1e-4


@pytest.mark.long
def test_ignoring_the_differences_would_be_false() -> None:
    """What the test above would find if nothing were taken off."""
    n, alpha, runs, p, zeta = 1_000, 0.05, 20_000, 0.9, 0.03
    votes = np.random.default_rng(5).binomial(n, p, runs)
    false = int((clopper_pearson_lower(votes, n, alpha) > p - zeta).sum())
    assert binomtest(false, runs, alpha, alternative="greater").pvalue < 1e-9


@pytest.mark.long
def test_radii_of_a_linear_classifier_are_below_the_true_one() -> None:
    """The whole path, with float noise, for which the true radius is the distance to the plane."""
    certifier = linear(precision="bf16", min_agreement=0.0)
    image = IMAGE.astype(np.float32) / 255
    margin = (2 * float(image.sum()) - 12.0) / (2 * np.sqrt(16))
    exact = abs(margin)
    false = 0
    for _ in range(60):
        made = certifier.certify(image, n=200, alpha=0.05, certify="fp32", noise="float")
        false += made.radius > exact
    assert float(norm.cdf(exact / 0.25)) > 0.5
    assert binomtest(false, 60, 0.05, alternative="greater").pvalue > 1e-3
