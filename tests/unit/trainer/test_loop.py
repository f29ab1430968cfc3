"""Promises of the loop: it learns, it repeats itself under a seed, and a killed run ends as if it had not been."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from tests.interrupted_run import InterruptedRunError, Interruption

from spacte_core.checkpoint import WEIGHTS_FILE, load_checkpoint
from spacte_core.data import DataError, load_data
from spacte_core.data.base import Batch, alternating, shuffled
from spacte_core.data.memory import MemoryData
from spacte_core.models import MultiHeadNet
from spacte_trainer.callbacks import Callback, read_log
from spacte_trainer.config import ConfigError, TrainConfig, override, resolve_precision
from spacte_trainer.evaluation import Evaluation, accuracy, evaluate
from spacte_trainer.loop import Trainer, train
from spacte_trainer.metrics import EpochReport, LossMeter
from spacte_trainer.objectives import Loss, SeededDraws, Step, split
from spacte_trainer.process_group import ProcessGroup
from spacte_trainer.recipes import load_recipe
from spacte_trainer.runs import run
from spacte_trainer.state import STATE_FILE, State, StateError, load_state, save_state

CPU = torch.device("cpu")


def small(recipe: str = "digits-spacte-gaussian", **changes: object) -> TrainConfig:
    """A run of seconds: two heads, two epochs, few and large batches."""
    settings: dict[str, object] = {"epochs": 2, "batch": 512, "validate_every": 0, "model.heads": 2}
    if recipe != "digits-spacte-gaussian":
        del settings["model.heads"]
    return override(load_recipe(recipe), settings | changes)


class Recorder(Callback):
    """Keeps what the loop reports."""

    def __init__(self) -> None:
        self.reports: list[EpochReport] = []
        self.batches: list[tuple[int, int, int]] = []

    def on_batch_end(self, epoch: int, done: int, total: int, meter: LossMeter) -> None:
        self.batches.append((epoch, done, total))

    def on_epoch_end(self, report: EpochReport) -> None:
        self.reports.append(report)


def trained(config: TrainConfig, folder: Path, *recorders: Recorder) -> dict[str, torch.Tensor]:
    data = load_data(config.data, "train"), load_data(config.data, "test")
    finished = train(config, folder, *data, device=CPU, callbacks=recorders)
    return {key: value.clone() for key, value in finished.net.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# Learning


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


# Mini-batching and schedule


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


# Repetition and resumption


@pytest.mark.slow
def test_a_run_is_a_function_of_its_seed(tmp_path: Path):
    first = trained(small(), tmp_path / "a")
    assert same(first, trained(small(), tmp_path / "b"))
    assert not same(first, trained(small(seed=1), tmp_path / "c"))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["digits-spacte-gaussian", "digits-smoothmix"])
def test_an_interrupted_epoch_is_done_over_and_comes_out_the_same(recipe: str, tmp_path: Path):
    config = small(recipe, epochs=3)
    undisturbed = trained(config, tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        trained(config, tmp_path / "cut", Interruption())
    state = load_state(tmp_path / "cut", config, CPU)
    assert state is not None
    assert state.epoch == 1
    assert same(undisturbed, trained(config, tmp_path / "cut"))


@pytest.mark.long
@pytest.mark.slow
def test_kill_9_and_resume_end_in_the_same_bytes(tmp_path: Path):
    """A real process, killed in its third epoch, then `--resume`: the weights' file is the same."""
    spacte = [str(Path(sys.executable).with_name("spacte")), "train", "digits-gaussian"]
    settings = ["--epochs", "4", "--set", "batch=128", "--set", "validate_every=0", "--device", "cpu"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run([*spacte, *settings, "--out", str(whole)], check=True, capture_output=True, timeout=240)

    process = subprocess.Popen(
        [*spacte, *settings, "--out", str(cut)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    log = cut / "training" / "log.jsonl"
    end = time.monotonic() + 240
    while len(read_log(log)) < 2 and time.monotonic() < end:
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert (cut / "training" / STATE_FILE).exists()
    assert not (cut / "model.safetensors").exists()

    refused = subprocess.run(
        [*spacte, *settings, "--out", str(cut)], check=False, capture_output=True, text=True, timeout=240
    )
    assert refused.returncode == 1
    assert "add --resume to carry it on" in " ".join(refused.stderr.split())
    resumed = [*spacte, *settings, "--out", str(cut), "--resume"]
    subprocess.run(resumed, check=True, capture_output=True, timeout=240)
    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert [record["epoch"] for record in read_log(log)] == [1, 2, 3, 4]


def test_a_run_cannot_be_resumed_with_other_settings(tmp_path: Path):
    with pytest.raises(InterruptedRunError):
        trained(small(epochs=3), tmp_path, Interruption())
    with pytest.raises(StateError, match=r"optimizer\.lr: 0\.1, now 0\.2"):
        trained(small(epochs=3, **{"optimizer.lr": 0.2}), tmp_path)


@pytest.mark.parametrize("content", [b"nonsense", b""])
def test_a_damaged_state_is_named(content: bytes, tmp_path: Path):
    (tmp_path / STATE_FILE).write_bytes(content)
    with pytest.raises(StateError, match="delete it to start over"):
        trained(small(), tmp_path)


def test_a_state_of_another_version_is_named(tmp_path: Path):
    torch.save({"config": '{"recipe": "of old"}', "epoch": 1}, tmp_path / STATE_FILE)
    with pytest.raises(StateError, match="delete it to start over"):
        trained(small(), tmp_path)


def test_a_model_that_was_not_trained_here_is_not_carried_on(tmp_path: Path, make_checkpoint: Callable[[Path], str]):
    make_checkpoint(tmp_path)
    with pytest.raises(StateError, match="trained with other settings: choose another --out"):
        run(small(), tmp_path, device=CPU, console=Console(quiet=True), resume=True)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"batch": 1}, "A batch of 1 images cannot be cut into 2: raise --set batch"),
        ({"model.arch": "cifar_resnet21"}, r"depth 6n\+2, not 21"),
        ({"model.arch": "vgg"}, "There is no architecture 'vgg'"),
        ({"data.crop": 8}, r"leaves nothing of some images of 8 x 8: lower --set data\.crop"),
    ],
)
def test_what_cannot_be_trained_is_said_beforehand(changes: dict[str, object], sentence: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=sentence):
        trained(small(**changes), tmp_path)


# Composition


@pytest.mark.slow
def test_naive_ensemble_is_its_members_and_resumes_by_member(tmp_path: Path):
    config = small("digits-ensemble-gaussian", members=2)
    folder = run(config, tmp_path / "ensemble", device=CPU, console=Console(quiet=True))
    ensemble = load_checkpoint(folder).net
    x_BCHW = torch.rand(3, 1, 8, 8)
    for index in range(2):
        alone = small("digits-gaussian", seed=config.seed + index)
        member = run(alone, tmp_path / f"alone-{index}", device=CPU, console=Console(quiet=True))
        (logits,) = load_checkpoint(member).net(x_BCHW)
        assert torch.equal(ensemble(x_BCHW)[index], logits)
    # A member that was finished before is not trained again: its file stays as it is.
    (folder / "config.json").unlink()
    part = folder / "training" / "member-0" / "model.safetensors"
    before = part.stat().st_mtime_ns
    run(config, folder, device=CPU, console=Console(quiet=True), resume=True)
    assert part.stat().st_mtime_ns == before
    assert same(load_checkpoint(folder).net.state_dict(), ensemble.state_dict())


@pytest.mark.slow
def test_drt_goes_on_from_its_pretrained_members(tmp_path: Path):
    changes = {"pretrain.epochs": 1, "pretrain.batch": 512, "pretrain.validate_every": 0}
    config = small("digits-drt-gaussian", **{**changes, "optimizer.lr": 1e-9})
    folder = run(config, tmp_path, device=CPU, console=Console(quiet=True))
    before = load_checkpoint(folder / "training" / "pretrain").net
    after = load_checkpoint(folder).net
    assert len(after.heads) == 3
    for ours, theirs in zip(after.parameters(), before.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.slow
def test_the_checkpoint_rebuilds_its_run(tmp_path: Path):
    folder = run(small(), tmp_path / "first", device=CPU, console=Console(quiet=True))
    checkpoint = load_checkpoint(folder)
    again = TrainConfig.model_validate(checkpoint.config.train)
    second = run(again, tmp_path / "second", device=CPU, console=Console(quiet=True))
    assert (second / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert checkpoint.config.class_names == tuple("0123456789")
    assert set(checkpoint.config.metrics) == {"clean_accuracy", "noisy_accuracy", "train_seconds"}
    assert not (folder / "training" / STATE_FILE).exists()


# Numbers and shapes


def test_the_meter_averages_over_steps_and_keeps_heads_apart():
    meter = LossMeter()
    meter.add(Loss(torch.tensor(2.0), {"heads": torch.tensor([1.0, 3.0])}))
    meter.add(Loss(torch.tensor(4.0), {"heads": torch.tensor([3.0, 5.0])}))
    assert meter.means() == {"loss": [3.0], "heads": [2.0, 4.0]}


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"no longer a number in epoch 1: lower --set optimizer\.lr"):
        trained(small(**{"optimizer.lr": 1e12}), tmp_path)


def test_data_that_do_not_fit_the_network_are_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"model\.num_classes=10"):
        trained(small(**{"model.num_classes": 7}), tmp_path)
    with pytest.raises(DataError, match=r"model\.input_shape=\[1, 8, 8\]"):
        trained(small(**{"model.input_shape": [1, 9, 9]}), tmp_path)


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


def test_a_method_that_differentiates_a_gradient_is_not_compiled():
    config = small("digits-drt-gaussian", compile=True)
    with pytest.raises(ConfigError, match="drt-gaussian differentiates a gradient"):
        Trainer(config, load_data(config.data, "train"), CPU, ProcessGroup())


def test_weights_are_stored_in_half_the_space_and_measured_as_they_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen: list[torch.Tensor] = []

    def measured(net: MultiHeadNet, *args: Any, **options: Any) -> Evaluation:
        seen.extend(value.clone() for value in net.state_dict().values() if value.is_floating_point())
        return evaluate(net, *args, **options)

    monkeypatch.setattr("spacte_trainer.runs.evaluate", measured)
    folder = run(small(store="bf16"), tmp_path, device=CPU, console=Console(quiet=True))
    stored = [value for value in load_file(folder / WEIGHTS_FILE).values() if value.is_floating_point()]
    assert {value.dtype for value in stored} == {torch.bfloat16}
    assert all(torch.equal(value, value.bfloat16().float()) for value in seen)
    assert len(seen) == len(stored)


def test_how_a_run_is_carried_out_may_change_when_it_is_carried_on(tmp_path: Path):
    """Recording, compiling and the type of the stored weights are no part of what is trained."""
    config = small()
    save_state(tmp_path, config, State(1, 0.0, {}, {}))
    changed = config.model_copy(update={"compile": False, "cuda_graphs": False, "store": "bf16"})
    assert load_state(tmp_path, changed, CPU) is not None
    with pytest.raises(StateError, match="seed"):
        load_state(tmp_path, changed.model_copy(update={"seed": 1}), CPU)
