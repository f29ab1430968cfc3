"""Promises of the evaluation: counts that can be checked by hand, and noise that repeats."""

import pytest
import torch
from torch import Tensor, nn

from spacte_core.data import DataError, load_data
from spacte_core.data.base import in_order
from spacte_core.data.memory import MemoryData
from spacte_core.models import ModelConfig, MultiHeadNet, build
from spacte_trainer.evaluation import accuracy, check_fit, evaluate
from spacte_trainer.recipes import load_recipe

CPU = torch.device("cpu")


class Threshold(nn.Module):
    """Class 1 where the mean pixel is above `level`, with logits of size `weight`."""

    def __init__(self, level: float, weight: float = 1.0) -> None:
        super().__init__()
        self.level = level
        self.weight = weight

    def forward(self, x_BCHW: Tensor) -> Tensor:
        side_B = (x_BCHW.mean(dim=(1, 2, 3)) > self.level).float()
        return self.weight * torch.stack([1 - side_B, side_B], dim=1)


def grey(levels: list[int], labels: list[int]) -> MemoryData:
    images = torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4)
    return MemoryData(images, torch.tensor(labels), ["dark", "bright"])


def test_heads_ensemble_and_disagreement_by_hand():
    """Levels 51, 102, 153, 204 are .2, .4, .6, .8; heads split at .3, .5 and .7, the last with a strong voice."""
    net = MultiHeadNet(nn.Identity(), nn.Identity(), [Threshold(0.3), Threshold(0.5), Threshold(0.7, 3.0)])
    data = grey([51, 102, 153, 204], [0, 0, 1, 1])
    found = accuracy(net, data, CPU)
    assert found.heads == (0.75, 1.0, 0.75)
    assert found.ensemble == 0.75  # the strong head decides, and it is wrong on .6
    # Pairs (0,1), (0,2), (1,2) differ on 1, 2 and 1 of 4 images.
    assert found.disagreement == pytest.approx((1 + 2 + 1) / (3 * 4))


def test_what_has_no_defined_answer_is_never_right():
    net = MultiHeadNet(nn.Identity(), nn.Identity(), [Threshold(0.5, weight=torch.nan), Threshold(0.5)])
    found = accuracy(net, grey([51, 102], [0, 0]), CPU)
    assert (found.heads, found.ensemble) == ((0.0, 1.0), 0.0)


def test_one_head_cannot_disagree():
    net = MultiHeadNet(nn.Identity(), nn.Identity(), [Threshold(0.5)])
    assert accuracy(net, grey([51, 102, 153, 204], [0, 0, 1, 0]), CPU).disagreement == 0.0


def test_noisy_accuracy_of_a_threshold_is_the_normal_distribution():
    """Mean of 16 pixels, each with noise of sd .4: a grey of .6 stays above .5 with probability Phi(1)."""
    net = MultiHeadNet(nn.Identity(), nn.Identity(), [Threshold(0.5)])
    data = grey([153] * 1000, [1] * 1000)
    found = evaluate(net, data, CPU, sigma=0.4, draws=20)
    assert found.clean.ensemble == 1.0
    assert found.noisy.ensemble == pytest.approx(0.841345, abs=4 * (0.8413 * 0.1587 / 20_000) ** 0.5)
    assert (found.images, found.noise_draws) == (1000, 20)


def test_noise_depends_on_seed_and_epoch_and_nothing_else():
    net = MultiHeadNet(nn.Identity(), nn.Identity(), [Threshold(0.5), Threshold(0.51)]).train()
    data = grey([128] * 1000, [1] * 1000)  # so near the threshold that noise alone decides
    before = [module.training for module in net.modules()]

    def measure(**change: int) -> tuple[float, ...]:
        return accuracy(net, data, CPU, sigma=0.5, **change).heads

    first = measure(seed=1, epoch=1)
    torch.rand(3)
    assert measure(seed=1, epoch=1) == first
    assert measure(seed=2, epoch=1) != first
    assert measure(seed=1, epoch=2) != first
    assert [module.training for module in net.modules()] == before


def test_running_statistics_are_left_alone():
    net = build(load_recipe("digits-gaussian").model).train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    accuracy(net, load_data(load_recipe("digits-gaussian").data, "test"), CPU, sigma=0.5)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_a_network_for_other_images_is_refused():
    model = ModelConfig(arch="digits_cnn", num_classes=10, input_shape=(1, 8, 8))
    data = grey([1, 2], [0, 1])
    with pytest.raises(DataError, match=r"images are \[1, 4, 4\] .* network takes \[1, 8, 8\]"):
        check_fit(model, data)
    fitting = MemoryData(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), ["a", "b"])
    with pytest.raises(DataError, match="2 classes but the network 10"):
        check_fit(model, fitting)
    assert len(list(fitting.batches(in_order(2, 1), CPU))) == 2
