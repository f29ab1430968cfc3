"""Promises of the moving average: its formula, that the run's result is it, and that it survives an interruption."""

from pathlib import Path

import pytest
import torch
from tests.interrupted_run import InterruptedRunError, Interruption
from torch import nn

from spacte_core.data import load_data
from spacte_core.data.base import ImageData
from spacte_trainer.averaging import RAMP, WeightAverage
from spacte_trainer.callbacks import Callback
from spacte_trainer.config import ConfigError, TrainConfig, override
from spacte_trainer.evaluation import accuracy
from spacte_trainer.loop import Trainer, train
from spacte_trainer.metrics import EpochReport
from spacte_trainer.recipes import load_recipe

CPU = torch.device("cpu")


def small(**changes: object) -> TrainConfig:
    settings: dict[str, object] = {"epochs": 2, "batch": 512, "validate_every": 0, "ema": 0.5}
    return override(load_recipe("digits-gaussian"), settings | changes)


def splits(config: TrainConfig) -> tuple[ImageData, ImageData]:
    return load_data(config.data, "train"), load_data(config.data, "test")


def test_it_is_the_moving_average_of_weights_and_statistics() -> None:
    """Written out over thirty steps, in which the decay grows from .1 to its limit."""
    convolution = nn.Conv2d(1, 2, 1, bias=False)
    net = nn.Sequential(convolution, nn.BatchNorm2d(2))
    mean = WeightAverage(net, 0.7)
    expected = {name: value.double() for name, value in net.state_dict().items()}
    for n in range(1, 31):
        with torch.no_grad():
            convolution.weight.add_(1)
            net(torch.randn(4, 1, 2, 2))  # moves the statistics
        decay = min(0.7, n / (n + RAMP))
        expected = {name: decay * expected[name] + (1 - decay) * value for name, value in net.state_dict().items()}
        mean.add(net)
    assert mean.values["1.num_batches_tracked"] == 30
    for name, value in mean.values.items():
        if value.is_floating_point():
            assert torch.allclose(value.double(), expected[name], rtol=1e-5), name


def test_what_a_run_leaves_is_the_average_and_training_is_untouched(tmp_path: Path) -> None:
    """The state keeps both; the last weights are those of a run without an average, bit for bit."""
    config = small()
    averaged = train(config, tmp_path / "a", *splits(config), device=CPU)
    plain = train(small(ema=0), tmp_path / "b", *splits(config), device=CPU).net.state_dict()
    state = torch.load(tmp_path / "a" / "training_state.pt", weights_only=True)
    assert averaged.average is not None
    for name, value in averaged.net.state_dict().items():
        assert torch.equal(value, averaged.average.values[name])
        assert torch.equal(state["model"][name], plain[name])
    assert not torch.equal(averaged.net.state_dict()["heads.0.fc.weight"], plain["heads.0.fc.weight"])


def test_an_interruption_changes_nothing(tmp_path: Path) -> None:
    config = small()
    whole = train(config, tmp_path / "whole", *splits(config), device=CPU).net.state_dict()
    with pytest.raises(InterruptedRunError):
        train(config, tmp_path / "cut", *splits(config), device=CPU, callbacks=[Interruption()])
    resumed = train(config, tmp_path / "cut", *splits(config), device=CPU).net.state_dict()
    done = train(config, tmp_path / "cut", *splits(config), device=CPU).net.state_dict()  # nothing left to train
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert all(torch.equal(whole[name], done[name]) for name in whole)


def test_validation_measures_the_average(tmp_path: Path) -> None:
    reports: list[EpochReport] = []

    class Keep(Callback):
        def on_epoch_end(self, report: EpochReport) -> None:
            reports.append(report)

    config = small(validate_every=2)
    trainer: Trainer = train(config, tmp_path, *splits(config), device=CPU, callbacks=[Keep()])
    found = accuracy(trainer.net, splits(config)[1], CPU, sigma=config.sigma, seed=config.seed, epoch=2)
    assert reports[1].validation == found


@pytest.mark.parametrize("decay", [-0.1, 1, float("nan")])
def test_a_decay_that_is_none_is_refused(decay: float) -> None:
    with pytest.raises(ConfigError, match="Setting ema cannot be"):
        small(ema=decay)
