"""Promises of whole runs: members and pre-training end in one checkpoint, which rebuilds its run; weights as stored."""

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from tests.small_runs import CPU, same, small

from spacte_core.checkpoint import WEIGHTS_FILE, load_checkpoint
from spacte_core.models import MultiHeadNet
from spacte_trainer.config import ConfigError, TrainConfig
from spacte_trainer.evaluation import Evaluation, evaluate
from spacte_trainer.runs import run
from spacte_trainer.state import STATE_FILE


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


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"progressive": {"side": 8}}, "choose fewer pixels"),
        ({"batch": 2, "objective.base.draws": 3}, "raise --set batch"),
        ({"compile": True}, "leave out compile=true"),
    ],
)
def test_a_mistake_is_found_before_what_a_run_starts_from_is_trained(
    changes: dict[str, object], sentence: str, tmp_path: Path
):
    with pytest.raises(ConfigError, match=sentence):
        run(small("digits-drt-gaussian", **changes), tmp_path, device=CPU, console=Console(quiet=True))
    assert not list(tmp_path.rglob("*.jsonl"))


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
