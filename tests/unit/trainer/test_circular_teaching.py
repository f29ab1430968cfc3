"""Promise: the teaching weights and the cosine loss are those of METHODS 3.2 and 3.4."""

import math

import pytest
import torch
from torch import nn

from spacte_trainer.circular_teaching import cosine_loss, weights


def test_the_head_before_decides_and_the_own_loss_grades() -> None:
    lbar_LB = torch.tensor([[0.1, 2.0], [0.7, 0.3], [3.0, 1.0]], dtype=torch.float64)
    level = 1.5

    def hard(own: float) -> float:
        return (1 + math.exp(-level)) / (1 + math.exp(own - level))

    # Sample 0: head 0 is taught by head 2 (hard), head 1 by head 0 (easy), head 2 by head 1 (easy).
    # Sample 1: head 0 by head 2 (easy), head 1 by head 0 (hard), head 2 by head 1 (easy).
    expected = torch.tensor([[hard(0.1), 1.0], [1.0, hard(0.3)], [1.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(weights(lbar_LB, level), expected, rtol=1e-12, atol=0)


def test_equality_gives_zero() -> None:
    assert weights(torch.tensor([[1.5], [0.2]]), 1.5).tolist() == [[1.0], [0.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_are_constants_in_the_dtype_of_the_losses(dtype: torch.dtype) -> None:
    w_LB = weights(torch.rand(3, 5, dtype=dtype, requires_grad=True), 0.5)
    assert w_LB.dtype == dtype
    assert not w_LB.requires_grad


def test_huge_losses_do_not_overflow() -> None:
    assert weights(torch.full((2, 1), 1e4), 0.5).tolist() == [[0.0], [0.0]]


def test_one_head_has_no_teacher() -> None:
    with pytest.raises(ValueError, match="at least two heads"):
        weights(torch.rand(1, 5), 0.5)


def heads(*rows: list[float]) -> list[nn.Module]:
    return [nn.ParameterList([nn.Parameter(torch.tensor(row, dtype=torch.float64))]) for row in rows]


def test_cosine_loss_sums_squared_cosines_over_pairs() -> None:
    assert cosine_loss(heads([1, 0], [0, 2])).item() == 0
    assert cosine_loss(heads([1, 1], [-3, -3], [2, 2])).item() == pytest.approx(3)
    assert cosine_loss(heads([1, 0], [1, 1])).item() == pytest.approx(0.5)


def test_cosine_loss_reads_every_parameter_and_nothing_else() -> None:
    def head() -> nn.Module:
        return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 2))

    pair = [head(), head()]
    vectors = [torch.cat([p.detach().flatten() for p in one.parameters()]) for one in pair]
    expected = torch.cosine_similarity(*vectors, dim=0).square()
    pair[0].get_buffer("1.running_mean").fill_(100.0)
    torch.testing.assert_close(cosine_loss(pair).detach(), expected)


def test_cosine_loss_stays_in_float32_under_autocast_and_reads_channels_last() -> None:
    torch.manual_seed(0)
    pair = [nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)]
    plain = cosine_loss(pair)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cosine_loss(pair), plain)
    for conv in pair:
        conv.to(memory_format=torch.channels_last)
    torch.testing.assert_close(cosine_loss(pair), plain)
