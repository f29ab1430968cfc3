"""Promise: the float32 network's votes are its own, whoever computes them, and one pass over the rows is enough."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from spacte_core.forms import Classifier, Encoding, logits_of, plain
from spacte_core.kernels.cpu.winograd_layers import library as winograd_library
from spacte_core.votes import votes_of
from spacte_workers.engine import Engine, float32_votes, selection
from spacte_workers.engine.calibration import Calibration

_ROWS = 96


class _Counting(nn.Module):
    """A convolutional network that counts the rows that it computes itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Flatten()
        )
        self.last = nn.Linear(16 * 64, 4)
        self.rows = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.rows += len(x)
        return self.last(self.layers(x))


@pytest.fixture
def classifier() -> Classifier:
    network = _Counting().eval().requires_grad_(requires_grad=False)
    return Classifier(Encoding((1.0,) * 3, (0.0,) * 3), network, (nn.Identity(),))


@pytest.fixture
def rows() -> Calibration:
    return Calibration(*torch.rand(2, _ROWS, 3, 8, 8, generator=torch.Generator().manual_seed(1)))


def own_votes(classifier: Classifier, rows: Calibration) -> torch.Tensor:
    return votes_of(logits_of(plain(classifier, 32), rows.compared))


def test_votes_by_kernels_are_the_networks_own(classifier, rows):
    assert torch.equal(float32_votes.float32_votes(classifier, 32, rows), own_votes(classifier, rows))


def test_the_network_itself_computes_few_rows_where_kernels_can(classifier, rows, monkeypatch):
    if winograd_library() is None:
        pytest.skip("Winograd's kernels are not compiled here")
    seen = []

    class Spying(nn.Module):
        def forward(self, x):
            seen.append(len(x))
            return classifier.trunk(x)

    form = plain(classifier, 16)
    monkeypatch.setattr(float32_votes, "forms", lambda *_args, **_options: iter([form]))
    spied = replace(classifier, trunk=Spying())
    found = float32_votes.float32_votes(spied, 32, rows)
    assert torch.equal(found, own_votes(classifier, rows))
    assert seen == [8]  # and not a whole batch


@pytest.mark.parametrize(
    ("any_batch", "batch", "rows_of_a_call"), [(True, 48, 48), (True, 2048, None), (False, 48, 16)]
)
def test_kernels_for_any_batch_get_whole_ones(classifier, rows, monkeypatch, any_batch, batch, rows_of_a_call):
    """Sixteen rows are work for one thread alone, and none are computed twice to fill a batch."""
    seen = []

    def spied(x):
        seen.append(len(x))
        return classifier.trunk(x)

    form = replace(plain(classifier, 16), trunk=spied, any_batch=any_batch)
    monkeypatch.setattr(float32_votes, "forms", lambda *_args, **_options: iter([form]))
    assert torch.equal(float32_votes.float32_votes(classifier, batch, rows), own_votes(classifier, rows))
    assert set(seen) == {rows_of_a_call or len(rows.compared)}


def test_another_function_does_not_vote_for_the_network(classifier, rows, monkeypatch):
    """A module that was traced wrongly, or kernels that are too rough."""
    form = plain(classifier, 16)
    wrong = replace(form, heads=[lambda features: -features])
    monkeypatch.setattr(float32_votes, "forms", lambda *_args, **_options: iter([wrong]))
    assert torch.equal(float32_votes.float32_votes(classifier, 32, rows), own_votes(classifier, rows))


def test_where_two_logits_are_near_each_other_the_network_decides(classifier, rows, monkeypatch):
    """Kernels whose roundings would decide nearly every vote."""
    form = plain(classifier, 16)
    classifier.trunk.last.weight[1] = classifier.trunk.last.weight[0]
    classifier.trunk.last.bias[:2] = 10.0
    classifier.trunk.last.bias[1] += 1e-5
    rough = replace(form, heads=[lambda features: features - 3e-5 * torch.eye(4)[1]])
    monkeypatch.setattr(float32_votes, "forms", lambda *_args, **_options: iter([rough]))
    own = own_votes(classifier, rows)
    assert (votes_of(logits_of(rough, rows.compared)) != own).any()
    assert torch.equal(float32_votes.float32_votes(classifier, 32, rows), own)


def test_a_load_asks_for_them_once(monkeypatch):
    asked = []

    def spy(*args):
        asked.append(args)
        return float32_votes.float32_votes(*args)

    monkeypatch.setattr(selection, "float32_votes", spy)
    monkeypatch.setenv("SPACTE_LOAD_CACHE", "off")
    Engine(_Counting(), input_shape=(3, 8, 8), num_classes=4, allow_int8=True, min_agreement=0.0)
    assert len(asked) == 1
