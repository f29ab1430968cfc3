"""Promise: a checkpoint folder comes back bit for bit, names itself by its bytes, and damage is said in a sentence."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from spacte_core.checkpoint import CheckpointConfig, CheckpointError, load_checkpoint, read_config, save_checkpoint
from spacte_core.models import ModelConfig, MultiHeadNet, Normalization, build, ensemble_of

DIGITS = ModelConfig(
    arch="digits_cnn", heads=2, num_classes=10, input_shape=(1, 8, 8), normalization=Normalization.of("digits")
)


def described(model: ModelConfig = DIGITS) -> CheckpointConfig:
    names = tuple(map(str, range(model.num_classes)))
    return CheckpointConfig(
        model=model,
        class_names=names,
        sigma=0.25,
        method="spacte-gaussian",
        dataset="digits",
        epochs=3,
        seed=1,
        train={"lr": 0.1, "objective": {"base": {"name": "gaussian"}}},
        metrics={"noisy": 0.96},
    )


def trained(model: ModelConfig = DIGITS) -> MultiHeadNet:
    """A network whose running statistics are not the fresh ones."""
    net = build(model)
    net(torch.rand(8, *model.input_shape))
    return net


@pytest.mark.parametrize("model", [DIGITS, ensemble_of((DIGITS, DIGITS))])
def test_it_comes_back_bit_for_bit_in_eval_mode(tmp_path: Path, model: ModelConfig) -> None:
    net = trained(model)
    version = save_checkpoint(tmp_path / "new" / "model", net, described(model))
    loaded = load_checkpoint(tmp_path / "new" / "model")
    assert loaded.config == described(model)
    assert loaded.version == version
    assert not any(module.training for module in loaded.net.modules())
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in loaded.net.state_dict().items())


def test_the_version_is_the_hash_of_the_two_files(tmp_path: Path) -> None:
    version = save_checkpoint(tmp_path, trained(), described())
    data = (tmp_path / "config.json").read_bytes() + (tmp_path / "model.safetensors").read_bytes()
    assert version == hashlib.sha256(data).hexdigest()
    assert read_config(tmp_path) == (described(), version)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_layout_in_memory_does_not_matter(tmp_path: Path) -> None:
    net = trained()
    plain = save_checkpoint(tmp_path / "a", net, described())
    assert save_checkpoint(tmp_path / "b", net.to(memory_format=torch.channels_last), described()) == plain


def test_half_precision_storage_loads_as_float32(tmp_path: Path) -> None:
    net = trained()
    save_checkpoint(tmp_path / "full", net, described())
    save_checkpoint(tmp_path / "half", net, described(), dtype=torch.bfloat16)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    weight = load_checkpoint(tmp_path / "half").net.get_parameter("heads.0.fc.weight")
    assert torch.equal(weight, net.get_parameter("heads.0.fc.weight").bfloat16().float())


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def truncate_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


def break_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def edit(**changes: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return apply


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove_weights, "model.safetensors cannot be read"),
        (truncate_weights, "damaged"),
        (break_json, "not a configuration"),
        (edit(schema_version=2), "schema_version"),
        (edit(surprise=1), "surprise"),
        (edit(model=DIGITS.model_dump() | {"heads": 3}), "do not fit"),
        (edit(model=DIGITS.model_dump() | {"num_classes": 7}, class_names=list("abcdefg")), "do not fit"),
        (edit(class_names=list("abcdefghi")), "there are 9 class_names for 10 classes"),
        (edit(class_names=list("abcdefghijk")), "there are 11 class_names for 10 classes"),
        (edit(model=DIGITS.model_dump() | {"arch": "vgg"}), "vgg"),
    ],
)
def test_damage_is_said_in_one_sentence(tmp_path: Path, damage: Callable[[Path], None], words: str) -> None:
    save_checkpoint(tmp_path, trained(), described())
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    for read in (load_checkpoint, read_config):
        with pytest.raises(CheckpointError, match="no checkpoint"):
            read(tmp_path / "nothing")
