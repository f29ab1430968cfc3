"""Promises: a run repeats itself under a seed, a killed one ends as if it had not been, and no other is carried on."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tests.interrupted_run import InterruptedRunError, Interruption
from tests.small_runs import CPU, same, small, trained

from spacte_trainer.callbacks import read_log
from spacte_trainer.runs import run
from spacte_trainer.state import STATE_FILE, State, StateError, load_state, save_state


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


def test_how_a_run_is_carried_out_may_change_when_it_is_carried_on(tmp_path: Path):
    """Recording, compiling and the type of the stored weights are no part of what is trained."""
    config = small()
    save_state(tmp_path, config, State(1, 0.0, {}, {}))
    changed = config.model_copy(update={"compile": False, "cuda_graphs": False, "store": "bf16"})
    assert load_state(tmp_path, changed, CPU) is not None
    with pytest.raises(StateError, match="seed"):
        load_state(tmp_path, changed.model_copy(update={"seed": 1}), CPU)


def of_another_version() -> bytes:
    file = io.BytesIO()
    torch.save({"config": '{"recipe": "of old"}', "epoch": 1}, file)
    return file.getvalue()


@pytest.mark.parametrize(
    "content", [b"nonsense", b"", of_another_version()], ids=["nonsense", "empty", "of another version"]
)
def test_a_state_that_cannot_be_read_is_named(content: bytes, tmp_path: Path):
    (tmp_path / STATE_FILE).write_bytes(content)
    with pytest.raises(StateError, match="delete it to start over"):
        trained(small(), tmp_path)


def test_a_model_that_was_not_trained_here_is_not_carried_on(tmp_path: Path, make_checkpoint: Callable[[Path], str]):
    make_checkpoint(tmp_path)
    with pytest.raises(StateError, match="trained with other settings: choose another --out"):
        run(small(), tmp_path, device=CPU, console=Console(quiet=True), resume=True)
