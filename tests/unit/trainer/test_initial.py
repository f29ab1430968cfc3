"""Promise: a run may start from any network: a checkpoint's, an imported program, or a library's, cut into heads."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.foreign_models import transformers_model
from typer.testing import CliRunner

from spacte_core.checkpoint import CheckpointError, load_checkpoint
from spacte_core.models import ModelConfig
from spacte_core.programs import program_network
from spacte_core.trainable import lifted, trainable_network
from spacte_trainer.cli.train import train_app
from spacte_trainer.recipes.fine_tuning import data_for

pytestmark = pytest.mark.slow


def trained(out: Path, *arguments: str) -> Any:
    result = CliRunner().invoke(train_app, [*arguments, "--out", str(out), "--device", "cpu"])
    assert result.exit_code == 0, (result.output, result.exception)
    return load_checkpoint(out)


def refusal(*arguments: str) -> str:
    result = CliRunner().invoke(train_app, list(arguments))
    assert result.exit_code == 1
    assert "\n" not in str(result.exception)
    return str(result.exception)


FINE = ("--data", "digits", "--sigma", "0.25", "--set", "threads=1", "--set", "precision=float32")


def test_an_imported_program_is_fine_tuned_under_noise(imported: Path, tmp_path: Path) -> None:
    """Its batch statistics move, too, and the result is a program again, on which one can go on."""
    from spacte_core.data import DataConfig, load_data
    from spacte_trainer.evaluation import accuracy

    before = load_checkpoint(imported)
    out = tmp_path / "tuned"
    after = trained(out, "--init", str(imported), "--method", "gaussian", "--epochs", "3", *FINE)
    assert after.config.model.arch == "exported"
    assert after.config.train["init"]["version"] == before.version
    data = load_data(DataConfig(source="digits"), "test")
    noisy = [accuracy(c.net, data, torch.device("cpu"), sigma=0.25).ensemble for c in (before, after)]
    assert noisy[1] > noisy[0] + 0.02
    assert after.config.metrics["noisy_accuracy"] == pytest.approx(noisy[1], abs=0.05)
    means = [lifted(c.net.backbone).state_dict() for c in (before, after)]
    assert any(not torch.equal(a, b) for a, b in zip(*(m.values() for m in means), strict=False))
    trained(tmp_path / "more", "--init", str(out), "--method", "gaussian", "--epochs", "1", *FINE)


def test_five_heads_are_split_off_and_teach_each_other(imported: Path, tmp_path: Path) -> None:
    options = ("--init", str(imported), "--method", "spacte-gaussian", "--heads", "3", "--epochs", "2")
    found = trained(tmp_path / "heads", *options, *FINE)
    assert (found.config.model.heads, len(found.net.heads)) == (3, 3)
    logits = found.net(torch.rand(4, 1, 8, 8))
    assert not torch.equal(logits[0], logits[1])
    again = trained(tmp_path / "heads", *options, *FINE, "--resume")
    assert again.version == found.version
    assert "3 heads already" in refusal(
        "--init", str(tmp_path / "heads"), "--method", "spacte-gaussian", "--out", str(tmp_path / "x"), *FINE
    )


def test_a_checkpoint_of_ours_is_fine_tuned_with_more_heads(make_checkpoint: Any, tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "one", heads=1)
    found = trained(tmp_path / "out", "digits-spacte-gaussian", "--init", str(tmp_path / "one"), "--epochs", "2")
    assert (found.config.model.arch, len(found.net.heads)) == ("digits_cnn", 5)
    assert found.config.train["optimizer"]["lr"] == 0.01


def test_a_checkpoint_of_other_layers_is_refused(make_checkpoint: Any, tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "one", heads=1)
    options = ("--init", str(tmp_path / "one"), "--method", "gaussian", *FINE, "--out", str(tmp_path / "out"))
    found = refusal(*options, "--set", "model.arch=cifar_resnet20")
    assert "is digits_cnn, with other layers than cifar_resnet20" in found
    assert "pixels normalised otherwise" in refusal(
        *options, "--set", 'model.normalization={"kind": "center", "mean": [0.3]}'
    )


@pytest.mark.parametrize(("source", "size"), [("folder:x", 8), ("parquet:x", 8), ("hf:a/b", 8), ("digits", None)])
def test_pictures_of_any_size_are_brought_to_the_network(source: str, size: int | None) -> None:
    data = data_for(source, ModelConfig(arch="digits_cnn", num_classes=10, input_shape=(1, 8, 8)))
    assert (data.image_size, data.channels) == (size, size and 1)


def test_a_library_s_network_is_trained_with_heads(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for name, level in (("dark", 60), ("light", 200)):
            folder = tmp_path / "set" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(generator.normal(level, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    options = ["cifar10-resnet20-spacte-gaussian-0.25", "--arch", "timm:resnet18", "--heads", "2", "--epochs", "2"]
    options += ["--split", "layer4", "--data", f"folder:{tmp_path / 'set'}", "--set", "model.num_classes=2"]
    found = trained(tmp_path / "out", *options, "--set", "batch=8", "--set", "data.crop=0")
    assert (found.config.model.arch, found.config.model.heads, found.config.model.num_classes) == ("exported", 2, 2)


@pytest.mark.parametrize("kind", ["ViT", "ResNet", "ConvNext"])
def test_heads_begin_where_a_network_is_usually_cut(kind: str) -> None:
    """The first head is the network itself; the others are near it."""
    torch.manual_seed(0)
    stored, model = program_network(transformers_model(kind).eval(), (3, 32, 32))
    net = trainable_network(stored.backbone, model.model_copy(update={"heads": 3})).eval()
    x = torch.rand(6, 3, 32, 32)
    with torch.no_grad():
        expected = stored(x)[0]
        first, *others = net(x)
    assert torch.allclose(first, expected, atol=1e-5)
    for other in others:
        assert 0 < float((other - expected).abs().max()) < float(expected.abs().max())
    assert len({len(list(head.parameters())) for head in net.heads}) == 1
    assert len(list(net.backbone.parameters())) > 0


def test_what_cannot_be_started_from_is_one_sentence(imported: Path, tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "x"))
    assert "name a RECIPE" in refusal(*out)
    assert "How to train" in refusal("--init", str(imported), *out)
    assert "--data" in refusal("--init", str(imported), "--method", "gaussian", *out)
    assert "no method" in refusal("--init", str(imported), "--method", "magic", *FINE, *out)
    assert "no checkpoint" in refusal("--init", str(tmp_path), "--method", "gaussian", *FINE, *out)
    assert "fc" in refusal("--init", str(imported), "--method", "gaussian", "--split", "nowhere", *FINE, *out)
    program = load_checkpoint(imported).net.backbone
    config = load_checkpoint(imported).config.model.model_copy(update={"heads": 2})
    with pytest.raises(CheckpointError, match="Nothing lies before"):
        trainable_network(program, config, split="stages.0")
