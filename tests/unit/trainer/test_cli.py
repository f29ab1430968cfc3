"""Promises of the commands: a trained folder, a table or JSON, one sentence for every mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from spacte_core.checkpoint import CheckpointConfig, load_checkpoint, save_checkpoint
from spacte_core.cli import import_app
from spacte_core.models import ModelConfig, Normalization, build
from spacte_trainer.callbacks import read_log
from spacte_trainer.cli.evaluate import evaluate_app
from spacte_trainer.cli.train import flatten, recipes_app, train_app
from spacte_trainer.config import TrainConfig
from spacte_trainer.recipes import ENTRIES, load_recipe

QUICK = ["--device", "cpu", "--epochs", "2", "--heads", "2", "--set", "batch=512", "--set", "threads=1"]


def invoke(app: typer.Typer, *arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def sentence(app: typer.Typer, *arguments: str) -> str:
    """The error of a command, as the `spacte` command prints it."""
    result = invoke(app, *arguments)
    assert result.exit_code != 0
    assert isinstance(result.exception, typer.TyperException)
    return str(result.exception)


@pytest.mark.parametrize(
    ("load", "settings", "said"), [(1.9, [], False), (2.0, [], True), (40.0, ["--set", "threads=2"], False)]
)
def test_a_busy_machine_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, load: float, settings: list[str], said: bool
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    ran: list[Path] = []
    monkeypatch.setattr("spacte_trainer.runs.run", lambda _config, folder, **_: ran.append(folder))
    result = invoke(train_app, "digits-gaussian", "--set", "threads=null", *settings, "--out", str(tmp_path))
    assert result.exit_code == 0
    assert ran == [tmp_path]
    assert ("--set threads=1" in result.stderr) == said


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that the command itself trained."""
    out = tmp_path_factory.mktemp("train") / "digits"
    result = invoke(train_app, "digits-spacte-gaussian", "--out", str(out), *QUICK, "--sigma", "0.5", "--seed", "3")
    assert result.exit_code == 0, result.output
    assert "epoch   2/2  loss" in result.output
    assert "noisy accuracy" in result.output
    return out


def test_train_leaves_a_checkpoint_with_the_options_in_it(folder: Path):
    checkpoint = load_checkpoint(folder)
    config = TrainConfig.model_validate(checkpoint.config.train)
    assert (config.sigma, config.seed, config.epochs, config.model.heads) == (0.5, 3, 2, 2)
    assert checkpoint.config.method == "spacte-gaussian"
    assert len(checkpoint.net.heads) == 2
    teaching = config.objective.teaching
    assert teaching is not None
    assert teaching.lambda_last == 0.8  # what belongs to sigma 0.5


def test_train_logs_every_epoch_for_people_and_tensorboard(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    records = read_log(folder / "training" / "log.jsonl")
    assert [record["epoch"] for record in records] == [1, 2]
    assert len(records[0]["losses"]["heads"]) == 2
    assert {"loss", "ce", "cos", "heads"} <= records[0]["losses"].keys()
    events = EventAccumulator(str(folder / "training"))
    events.Reload()
    assert {"loss/ce", "heads/0", "heads/1", "accuracy/ensemble", "rate"} <= set(events.Tags()["scalars"])
    logged = [event.value for event in events.Scalars("loss/ce")]
    assert logged == pytest.approx([record["losses"]["ce"][0] for record in records])


def test_a_finished_run_is_neither_overwritten_nor_trained_again(folder: Path):
    before = (folder / "model.safetensors").stat().st_mtime_ns
    options = ["digits-spacte-gaussian", "--out", str(folder), *QUICK, "--sigma", "0.5", "--seed", "3"]
    assert "add --resume to carry it on" in sentence(train_app, *options)
    assert invoke(train_app, *options, "--resume").exit_code == 0
    assert "other settings" in sentence(train_app, *options[:-1], "4", "--resume")
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["digits-nothing"], "There is no recipe 'digits-nothing'"),
        (["digits-gaussian", "--data", "folder:/nowhere"], "There is no folder /nowhere"),
        (["digits-gaussian", "--data", "tiles"], "There is no data source 'tiles'"),
        (["digits-gaussian", "--set", "model.depth=3"], "There is no setting 'model.depth'"),
        (["digits-spacte-gaussian", "--heads", "1"], "circular teaching needs at least 2 heads"),
        (["digits-gaussian", "--device", "warp"], "There is no device 'warp' here"),
        (["cifar10-resnet110-spacte-gaussian-0.25", "--sigma", "0.3"], "settings for sigma 0.25, 0.5, 1.0"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], expected: str, tmp_path: Path):
    found = sentence(train_app, *arguments, "--out", str(tmp_path / "out"))
    assert expected in found
    assert "\n" not in found


# recipes


def test_recipes_lists_each_with_a_line():
    lines = invoke(recipes_app).output.splitlines()
    assert len(lines) == len(ENTRIES)
    assert all(any(line.startswith(name) for line in lines) for name in ENTRIES)
    assert json.loads(invoke(recipes_app, "--json").output).keys() == ENTRIES.keys()


def test_recipes_prints_a_configuration_whose_lines_can_be_set_back():
    from spacte_trainer.config import override, parse_setting

    lines = invoke(recipes_app, "digits-spacte-smoothmix").output.splitlines()
    config = load_recipe("digits-spacte-smoothmix")
    assert dict(map(parse_setting, lines)) == dict(flatten(config.model_dump(mode="json")))
    assert override(config, dict(map(parse_setting, lines))) == config
    assert TrainConfig.model_validate_json(invoke(recipes_app, "digits-gaussian", "--json").output)


# evaluate


def test_evaluate_prints_a_table_and_json(folder: Path):
    table = invoke(evaluate_app, str(folder), "--device", "cpu").output
    assert all(word in table for word in ("head 0", "head 1", "all heads", "disagree"))
    result = invoke(evaluate_app, str(folder), "--device", "cpu", "--noise-draws", "3", "--json")
    found = json.loads(result.output)
    assert (found["images"], found["sigma"], found["noise_draws"]) == (397, 0.5, 3)
    assert len(found["noisy"]["heads"]) == 2
    again = json.loads(invoke(evaluate_app, str(folder), "--device", "cpu", "--noise-draws", "3", "--json").output)
    assert again == found
    assert f"{found['clean']['ensemble']:.2%}" in table


def test_evaluate_asks_for_data_where_the_checkpoint_has_none(tmp_path: Path):
    model = ModelConfig(arch="digits_cnn", num_classes=10, input_shape=(1, 8, 8))
    names = tuple("0123456789")
    config = CheckpointConfig(model=model, class_names=names, sigma=0.25, method="elsewhere")
    save_checkpoint(tmp_path, build(model), config)
    assert "add --data" in sentence(evaluate_app, str(tmp_path))
    assert invoke(evaluate_app, str(tmp_path), "--data", "digits").exit_code == 0
    assert "no checkpoint" in sentence(evaluate_app, str(tmp_path / "nothing"))


# import


def test_import_makes_a_checkpoint_that_evaluates(tmp_path: Path):
    from spacte_core.importers import reference_name

    model = ModelConfig(
        arch="cifar_resnet20", num_classes=10, input_shape=(3, 32, 32), normalization=Normalization.of("cifar10")
    )
    net = build(model)
    state = {f"1.{reference_name(k, model, multihead=False)}": v for k, v in net.state_dict().items()}
    torch.save({"epoch": 90, "arch": "cifar_resnet20", "state_dict": state}, tmp_path / "checkpoint.pth.tar")
    options = [str(tmp_path / "checkpoint.pth.tar"), "--format", "cohen", "--sigma", "0.25", "--out"]
    result = invoke(import_app, *options, str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert "cifar_resnet20 with 1 head and 10 classes" in result.output
    x_BCHW = torch.rand(2, 3, 32, 32)
    imported = load_checkpoint(tmp_path / "out")
    assert torch.equal(imported.net(x_BCHW)[0], net.eval()(x_BCHW)[0])
    assert imported.config.sigma == 0.25
    assert "already holds a checkpoint" in sentence(import_app, *options, str(tmp_path / "out"))


def test_import_refuses_a_pickle_that_would_run(tmp_path: Path):
    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {tmp_path / 'run'}",)

    torch.save({"state_dict": Hostile()}, tmp_path / "hostile.pth")
    arguments = [str(tmp_path / "hostile.pth"), "--format", "spacte", "--sigma", "1", "--out", str(tmp_path / "o")]
    assert "holds more than weights" in sentence(import_app, *arguments)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "o").exists()


# The command as installed


@pytest.mark.parametrize("command", ["train", "recipes", "evaluate", "import"])
def test_help_loads_no_torch(command: str):
    code = (
        "import sys; from spacte_client.cli import main; sys.argv = ['spacte', *sys.argv[1:]]\n"
        "try:\n main()\nexcept SystemExit as e:\n assert not e.code\n"
        "assert 'torch' not in sys.modules and 'sklearn' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, command, "--help"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: spacte" in done.stdout


def test_the_packages_export_what_users_import():
    import spacte_studies
    import spacte_trainer

    for package in (spacte_trainer, spacte_studies):
        assert all(callable(found) or found for found in map(package.__getattr__, package.__all__))
    assert spacte_trainer.load_recipe is load_recipe
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = spacte_trainer.nothing  # pyright: ignore[reportAttributeAccessIssue]
