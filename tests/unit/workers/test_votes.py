"""Promise: quotas and admission count every vote that a request may cost, those of pairs and attacks included."""

import pytest

from spacte_client.types import BracketParams, CertifyParams, PredictParams
from spacte_workers.votes import most_votes


@pytest.mark.parametrize(
    ("params", "votes"),
    [
        (PredictParams(n=1_000), 1_000),
        (CertifyParams(n0=100, n=10_000), 10_100),
        (CertifyParams(n0=100, n=10_000, certify="fp32"), 10_100 + 2 * 1_000),
        (CertifyParams(n0=10, n=15, certify="fp32"), 10 + 15 + 2 * 2),
    ],
)
def test_most_votes(params: PredictParams, votes: int) -> None:
    assert most_votes(params) == votes


def test_an_attack_costs_at_least_its_final_test() -> None:
    assert most_votes(BracketParams(n0=100, n=10_000, n_upper=5_000)) > 10_100 + 5_000
