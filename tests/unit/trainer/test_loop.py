"""Promises of the loop: it learns, its steps and rates are those of the settings, and every callback is told."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tests.small_runs import CPU, Recorder, small, trained

from spacte_core.checkpoint import load_checkpoint
from spacte_core.data import DataError, load_data
from spacte_core.data.base import Batch, alternating, shuffled
from spacte_core.data.memory import MemoryData
from spacte_trainer.config import ConfigError, resolve_precision
from spacte_trainer.evaluation import accuracy
from spacte_trainer.loop import Trainer
from spacte_trainer.metrics import LossMeter
from spacte_trainer.objectives import Loss, SeededDraws, Step, split
from spacte_trainer.process_group import ProcessGroup
from spacte_trainer.recipes import load_recipe
from spacte_trainer.runs import run


@pytest.mark.slow
def test_it_learns_the_digits_under_noise(tmp_path: Path):
    """Six short epochs take the loss below half and noisy accuracy above 60 % (chance is 10 %)."""
    recorder = Recorder()
    config = small(epochs=6, batch=64, validate_every=6)
    trained(config, tmp_path, recorder)
    losses = [report.losses["loss"][0] for report in recorder.reports]
    assert losses[-1] < losses[0] / 2
    validation = recorder.reports[-1].validation
    assert validation is not None
    assert validation.ensemble > 0.6
    assert min(validation.heads) > 0.5
    assert all(report.validation is None for report in recorder.reports[:-1])


@pytest.mark.long
@pytest.mark.slow
def test_the_demo_recipe_is_accurate_on_held_out_digits(tmp_path: Path):
    """digits-spacte-gaussian as it is: at least 95 % of noisy held-out digits at sigma 0.25."""
    folder = run(load_recipe("digits-spacte-gaussian"), tmp_path, device=CPU, console=Console(quiet=True))
    checkpoint = load_checkpoint(folder)
    data = load_data(load_recipe("digits-spacte-gaussian").data, "test")
    found = accuracy(checkpoint.net, data, CPU, sigma=0.25, draws=20)
    assert found.ensemble >= 0.95
    assert accuracy(checkpoint.net, data, CPU).ensemble >= 0.98


@pytest.mark.slow
def test_every_mini_batch_is_one_step_and_the_trailing_samples_are_unused(tmp_path: Path):
    """1,400 digits in batches of 512: 512, 512, 376, each cut into m = 3 mini-batches; 512 mod 3 samples are left."""
    recorder = Recorder()
    trained(small(epochs=2, **{"objective.base.draws": 3}), tmp_path, recorder)
    assert [report.steps for report in recorder.reports] == [9, 9]
    assert recorder.batches[:3] == [(1, 1, 3), (1, 2, 3), (1, 3, 3)]
    assert split(512, 3)[-1][1] == 510


@pytest.mark.slow
def test_the_rate_drops_right_after_the_epochs_of_the_schedule(tmp_path: Path):
    recorder = Recorder()
    schedule = {"name": "step", "drops_after": [1, 3], "factor": 0.1}
    config = small(**{"schedule": schedule, "optimizer.lr": 0.2}).model_copy(update={"epochs": 4})
    trained(config, tmp_path, recorder)
    assert [report.rate for report in recorder.reports] == pytest.approx([0.2, 0.02, 0.02, 0.002])


def test_one_step_is_sgd_on_the_loss_of_the_objective():
    """The loop's step, against SGD with momentum and weight decay written out."""
    config = small(channels_last=False)
    data = load_data(config.data, "train")
    loop = Trainer(config, data, CPU, ProcessGroup())
    twin = Trainer(config, data, CPU, ProcessGroup())
    batch = next(data.batches([torch.arange(32)], CPU))
    draws = [SeededDraws(torch.Generator().manual_seed(5), CPU) for _ in range(2)]
    steps = [Step(1, 2, config.sigma, 10, each) for each in draws]
    loop.batch(batch, steps[0], 0.05, LossMeter())
    momentum = [torch.zeros_like(p) for p in twin.net.parameters()]
    for x_BCHW, y_B in twin.objective.mini_batches(batch.x_BCHW, batch.y_B):
        twin.net.zero_grad()
        twin.objective.loss(twin.net, x_BCHW, y_B, steps[1]).total.backward()
        for p, velocity in zip(twin.net.parameters(), momentum, strict=True):
            assert p.grad is not None
            velocity.mul_(0.9).add_(p.grad + 1e-4 * p.detach())
            p.data.sub_(0.05 * velocity)
    for ours, theirs in zip(loop.net.parameters(), twin.net.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_batches_hold_the_images_of_the_plan():
    config = small()
    data = load_data(config.data, "train")
    plan = shuffled(len(data), 100, seed=0, epoch=1)
    batches: list[Batch] = list(data.batches(plan, CPU))
    assert sum(len(batch.y_B) for batch in batches) == 1400


def test_flips_that_alternate_are_asked_of_the_data():
    """What is mirrored follows from the seed and the epoch; without the setting nothing is named."""
    asked: list[torch.Tensor | None] = []

    class Asked(MemoryData):
        def batches(
            self,
            plan: Sequence[torch.Tensor],
            device: torch.device,
            augment: torch.Generator | None = None,
            mirrored_N: torch.Tensor | None = None,
        ) -> Iterator[Batch]:
            asked.append(mirrored_N)
            return super().batches(plan, device, augment, mirrored_N)

    for flip in ("alternate", True):
        config = small(**{"data.flip": flip})
        data = load_data(config.data, "train")
        assert isinstance(data, MemoryData)
        trainer = Trainer(config, Asked(**vars(data)), CPU, ProcessGroup())
        for epoch in (1, 2):
            trainer.epoch(epoch, [])
    for epoch in (1, 2):
        found = asked[epoch - 1]
        assert found is not None
        assert torch.equal(found, alternating(len(data), seed=config.seed, epoch=epoch))
    assert asked[2:] == [None, None]


def test_every_callback_is_told(tmp_path: Path):
    both = Recorder(), Recorder()
    trained(small(), tmp_path, *both)
    assert both[0].batches == both[1].batches == [(epoch, done, 3) for epoch in (1, 2) for done in (1, 2, 3)]
    assert both[0].reports == both[1].reports
    assert [report.epoch for report in both[0].reports] == [1, 2]


def test_the_meter_averages_over_steps_and_keeps_heads_apart():
    meter = LossMeter()
    meter.add(Loss(torch.tensor(2.0), {"heads": torch.tensor([1.0, 3.0])}))
    meter.add(Loss(torch.tensor(4.0), {"heads": torch.tensor([3.0, 5.0])}))
    assert meter.means() == {"loss": [3.0], "heads": [2.0, 4.0]}


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"no longer a number in epoch 1: lower --set optimizer\.lr"):
        trained(small(**{"optimizer.lr": 1e12}), tmp_path)


def test_bf16_autocast_follows_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The same draws in bf16: first-epoch losses agree within 2 %, and weights stay float32."""
    monkeypatch.setattr("spacte_trainer.config.computes_bf16", lambda _: True)  # else value by value, which is enough
    recorders = Recorder(), Recorder()
    trained(small(), tmp_path / "a", recorders[0])
    weights = trained(small(precision="bf16"), tmp_path / "b", recorders[1])
    a, b = (recorder.reports[0].losses["ce"][0] for recorder in recorders)
    assert a == pytest.approx(b, rel=0.02)
    assert a != b
    assert {value.dtype for value in weights.values()} == {torch.float32, torch.int64}


def test_bf16_without_instructions_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Before anything is trained or written; `auto` takes float32 there."""
    monkeypatch.setattr("spacte_trainer.config.computes_bf16", lambda _: False)
    monkeypatch.setattr("spacte_trainer.config.has_bf16", lambda _: False)
    with pytest.raises(ConfigError, match=r"^bf16 needs .*: leave precision at auto, or set precision=float32\.$"):
        run(small(precision="bf16"), tmp_path / "run", device=CPU, console=Console(quiet=True))
    assert not (tmp_path / "run").exists()
    assert resolve_precision(small(), CPU).precision == "float32"


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"batch": 1}, ConfigError, "A batch of 1 images cannot be cut into 2: raise --set batch"),
        ({"model.arch": "cifar_resnet21"}, ConfigError, r"depth 6n\+2, not 21"),
        ({"model.arch": "vgg"}, ConfigError, "There is no architecture 'vgg'"),
        ({"data.crop": 8}, ConfigError, r"leaves nothing of some images of 8 x 8: lower --set data\.crop"),
        ({"model.num_classes": 7}, DataError, r"model\.num_classes=10"),
        ({"model.input_shape": [1, 9, 9]}, DataError, r"model\.input_shape=\[1, 8, 8\]"),
    ],
)
def test_what_cannot_be_trained_is_said_beforehand(
    changes: dict[str, object], error: type[Exception], sentence: str, tmp_path: Path
):
    with pytest.raises(error, match=sentence):
        trained(small(**changes), tmp_path)


def test_a_method_that_differentiates_a_gradient_is_not_compiled():
    config = small("digits-drt-gaussian", compile=True)
    with pytest.raises(ConfigError, match="drt-gaussian differentiates a gradient"):
        Trainer(config, load_data(config.data, "train"), CPU, ProcessGroup())
