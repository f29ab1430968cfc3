"""Promises of the training benchmark: both loops train the same thing, and the answer says how fast."""

import json

import pytest
import torch
from typer.testing import CliRunner

from spacte_core.data.base import stream
from spacte_trainer.bench.command import Comparison, bench_train_app, by_sgd
from spacte_trainer.bench.loops import PlainLoop, TrainerLoop, endless, random_images
from spacte_trainer.config import override
from spacte_trainer.objectives import SeededDraws, Step
from spacte_trainer.recipes import load_recipe

CPU = torch.device("cpu")


@pytest.mark.parametrize("recipe", ["digits-spacte-gaussian", "digits-smoothmix"])
def test_both_loops_have_the_same_losses(recipe: str):
    config = override(load_recipe(recipe), {"precision": "float32"})
    data = random_images(config)
    losses = []
    for loop in (TrainerLoop(config, data, CPU), PlainLoop(config, CPU)):
        batches = endless(config, data, CPU)
        draws = SeededDraws(stream(1, epoch=1, purpose="noise"), CPU)
        step = Step(1, config.epochs, config.sigma, 10, draws)
        losses.append([loop.run([next(batches)], step) for _ in range(3)])
    for (our_steps, ours), (their_steps, plain) in zip(*losses, strict=True):
        assert our_steps == their_steps == 2
        assert ours == pytest.approx(plain, rel=1e-3)


def test_both_train_by_sgd_where_a_recipe_has_muon():
    config = override(load_recipe("cifar10-fast-gaussian-0.25"), {"ema": 0.9})
    assert config.optimizer.muon is not None
    plain = by_sgd(config)
    assert (plain.optimizer.muon, plain.ema) == (None, 0)
    assert plain.optimizer.lr == config.optimizer.lr


def test_loss_difference_is_the_largest_of_the_turns():
    found = Comparison("r", "cpu", "bf16", False, 1, 2.0, 1.0, 2.0, 1.5, 2.5, ((1.0, 1.0), (2.2, 2.0), (0.9, 1.0)))
    assert found.loss_difference == pytest.approx(0.1)


@pytest.mark.long
@pytest.mark.slow
def test_the_command_measures_two_processes_in_turn():
    result = CliRunner().invoke(
        bench_train_app, ["digits-gaussian", "--pairs", "2", "--device", "cpu", "--threads", "1", "--json"]
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["lowest"] <= found["speedup"] <= found["highest"]
    assert min(found["ours"], found["plain"]) > 0
    assert found["loss_difference"] < 0.01
    assert len(found["losses"]) == 3
