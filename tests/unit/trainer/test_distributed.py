"""Promises of data-parallel training: the same steps as one process, and a killed worker costs nothing."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from spacte_core.data.digits import load_digits
from spacte_trainer.callbacks import read_log
from spacte_trainer.cli.train import train_app
from spacte_trainer.config import ConfigError, override
from spacte_trainer.process_group import ProcessGroup
from spacte_trainer.recipes import load_recipe

SCRIPT = Path(__file__).with_name("group_process.py")
SPACTE = str(Path(sys.executable).with_name("spacte"))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The helper script, for what one process would do in its place."""
    spec = importlib.util.spec_from_file_location("group_process", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def two_processes(check: str, folder: Path) -> list[dict[str, torch.Tensor]]:
    """What each of two processes saved."""
    outs = [folder / f"{rank}.pt" for rank in range(2)]
    processes = [
        subprocess.Popen([sys.executable, str(SCRIPT), str(rank), str(folder / "store"), str(out), check])
        for rank, out in enumerate(outs)
    ]
    for process in processes:
        assert process.wait(timeout=240) == 0
    return [torch.load(out, weights_only=True) for out in outs]


@pytest.mark.slow
def test_batch_norm_is_that_of_the_whole_batch(script: ModuleType, tmp_path: Path):
    """Outputs, input gradients, summed parameter gradients and running statistics equal PyTorch's on one process."""
    parts = two_processes("batch_norm", tmp_path)
    x, weight = script.whole_batch()
    layer = torch.nn.BatchNorm2d(3)
    x.requires_grad_()
    y = layer(x)
    (y * weight).sum().backward()

    def close(found: torch.Tensor, expected: torch.Tensor | None) -> bool:
        assert expected is not None
        return torch.allclose(found, expected, rtol=1e-5, atol=1e-6)

    assert close(torch.cat([part["y"] for part in parts]), y)
    assert close(torch.cat([part["x_grad"] for part in parts]), x.grad)
    assert close(parts[0]["weight_grad"] + parts[1]["weight_grad"], layer.weight.grad)
    for part in parts:
        assert close(part["running_mean"], layer.running_mean)
        assert close(part["running_var"], layer.running_var)


@pytest.mark.long
@pytest.mark.parametrize("check", ["steps", "muon"])
def test_two_workers_make_the_steps_of_one(check: str, script: ModuleType, tmp_path: Path):
    """Three steps of SPACTE with next to no noise: weights, statistics and losses are those of one process.

    Muon lifts small singular values, and with them the rounding in which the two differ; its steps move by .02.
    """
    first, second = two_processes(check, tmp_path)
    alone = script.steps(0, ProcessGroup(), check)
    assert first.keys() == second.keys() == alone.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    for key, expected in alone.items():
        assert torch.allclose(first[key], expected, rtol=1e-3, atol=1e-4 if check == "steps" else 1e-3), key


def spacte(out: Path, *options: str) -> list[str]:
    settings = ["--epochs", "4", "--set", "batch=256", "--set", "validate_every=0", "--device", "cpu"]
    return [SPACTE, "train", "digits-gaussian", *settings, "--out", str(out), *options]


def a_folder(path: Path) -> Path:
    """The first digits of each class as files below `path`/digits."""
    images, labels = load_digits("train")
    for label in range(10):
        (path / "digits" / str(label)).mkdir(parents=True)
        for index in np.flatnonzero(labels == label)[:20]:
            Image.fromarray(images[index, 0]).save(path / "digits" / str(label) / f"{index}.png")
    return path


@pytest.mark.ray
@pytest.mark.cluster
@pytest.mark.slow
def test_data_named_from_the_folder_of_the_command_are_found(tmp_path: Path):
    """Ray's workers have a working directory of their own."""
    options = ["--workers", "2", "--data", "folder:digits", "--epochs", "1"]
    subprocess.run(spacte(tmp_path / "out", *options), check=True, cwd=a_folder(tmp_path), timeout=280)
    assert (tmp_path / "out" / "config.json").exists()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two workers."""
    out = tmp_path_factory.mktemp("distributed") / "two"
    done = subprocess.run(spacte(out, "--workers", "2"), check=True, capture_output=True, text=True, timeout=280)
    assert "epoch   4/4  loss" in done.stdout
    return out


@pytest.mark.ray
@pytest.mark.cluster
@pytest.mark.slow
def test_the_loss_follows_that_of_one_process(undisturbed: Path, tmp_path: Path):
    """Same global batch, other noise: the losses of the epochs agree within 10 %."""
    subprocess.run(spacte(tmp_path / "one"), check=True, capture_output=True, timeout=280)
    one, two = (
        [record["losses"]["loss"][0] for record in read_log(out / "training" / "log.jsonl")]
        for out in (tmp_path / "one", undisturbed)
    )
    assert len(one) == len(two) == 4
    assert two == pytest.approx(one, rel=0.1)


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    """The process ids of the training workers among the descendants of a `spacte train`."""
    parents, titles = {}, {}
    for entry in Path("/proc").iterdir():
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(entry.name)] = (entry / "cmdline").read_bytes()
        except (ValueError, OSError):
            continue  # no process, or one that has just ended

    def descends(pid: int) -> bool:
        return pid == process.pid or (pid in parents and descends(parents[pid]))

    return [pid for pid, title in titles.items() if b"RayTrainWorker" in title and descends(pid)]


@pytest.fixture
def training(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run of two workers under way, ended with the test whatever happens."""
    out = tmp_path / "cut"
    process = subprocess.Popen(
        spacte(out, "--workers", "2"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.ray
@pytest.mark.cluster
@pytest.mark.slow
def test_a_killed_worker_costs_an_epoch_and_changes_nothing(
    training: subprocess.Popen[bytes], undisturbed: Path, tmp_path: Path
):
    log = tmp_path / "cut" / "training" / "log.jsonl"
    end = time.monotonic() + 240
    while len(read_log(log)) < 1 and time.monotonic() < end:
        assert training.poll() is None
        time.sleep(0.01)
    victims = workers_of(training)
    assert victims
    os.kill(victims[-1], signal.SIGKILL)
    assert training.wait(timeout=280) == 0
    assert [record["epoch"] for record in read_log(log)] == [1, 2, 3, 4]
    cut, whole = (out / "model.safetensors" for out in (tmp_path / "cut", undisturbed))
    assert cut.read_bytes() == whole.read_bytes()


def test_more_workers_than_images_a_step_is_refused(tmp_path: Path):
    from spacte_trainer.distributed import run_distributed

    config = override(load_recipe("digits-gaussian"), {"batch": 2})
    with pytest.raises(ConfigError, match="A batch of 2 images cannot be shared by 3 workers"):
        run_distributed(config, tmp_path, workers=3)
    taught = override(load_recipe("digits-spacte-gaussian"), {"batch": 4})
    with pytest.raises(ConfigError, match="shared by 4 workers and cut into 2"):
        run_distributed(taught, tmp_path, workers=4)


def test_a_method_whose_gradients_cannot_be_shared_is_refused(tmp_path: Path):
    from spacte_trainer.distributed import run_distributed

    with pytest.raises(ConfigError, match=r"differentiates a gradient.*leave out --workers"):
        run_distributed(load_recipe("digits-drt-gaussian"), tmp_path, workers=2)


def test_more_workers_than_the_machine_has_room_for_are_refused(monkeypatch: pytest.MonkeyPatch):
    from spacte_trainer import distributed

    monkeypatch.setattr(distributed.ray, "cluster_resources", lambda: {"CPU": 2.0})
    distributed.check_room("CPU", 2)
    with pytest.raises(ConfigError, match="4 workers need 4 CPUs and there are 2: take fewer"):
        distributed.check_room("CPU", 4)
    with pytest.raises(ConfigError, match="there are 0"):
        distributed.check_room("GPU", 1)


@pytest.mark.parametrize("missing", ["ray", "ray.train"])
def test_without_ray_train_the_command_names_what_to_install(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, missing, None)  # importing it fails as if it were not there
    monkeypatch.delitem(sys.modules, "spacte_trainer.distributed", raising=False)
    result = CliRunner().invoke(train_app, ["digits-gaussian", "--out", str(tmp_path / "o"), "--workers", "2"])
    assert result.exit_code == 1
    assert isinstance(result.exception, typer.TyperException)
    assert str(result.exception) == (
        'Ray Train, which --workers needs, is not installed: pip install "spacte-trainer[distributed]".'
    )
    assert not (tmp_path / "o").exists()
