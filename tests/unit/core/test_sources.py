"""Promise: a classifier of another library becomes a checkpoint that answers as the library's own code does."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.foreign_models import LARGE, NAMES, ONNX, Small, bring, onnx_file
from torch import nn
from torchvision import models
from typer.testing import CliRunner

from spacte_core.checkpoint import CheckpointError, load_checkpoint
from spacte_core.cli import import_app
from spacte_core.errors import MissingPackageError, optional_package
from spacte_core.models.onnx_network import OnnxNetwork
from spacte_core.sources import SourceOptions, load_source
from spacte_core.sources.base import load_weights, read_state_dict

pytestmark = pytest.mark.slow

ROWS = 64
TOLERANCE = 1e-4
"""Largest difference of logits, as part of the largest logit: float32's rounding in other orders of summation."""


def imported(out: Path, *arguments: str) -> Any:
    result = CliRunner().invoke(import_app, [*arguments, "--sigma", "0.25", "--out", str(out)])
    assert result.exit_code == 0, result.output
    return load_checkpoint(out)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.large] if name in LARGE else []) for name in NAMES]
)
def test_a_model_s_logits_are_those_of_its_own_code(name: str, tmp_path: Path) -> None:
    brought = bring(name, tmp_path)
    checkpoint = imported(tmp_path / "out", *brought.arguments)
    x = torch.rand(ROWS, *checkpoint.config.model.input_shape, generator=torch.Generator().manual_seed(1)) * 1.5 - 0.25
    for rows in x.split(16):  # memory
        expected, found = brought.logits(rows), checkpoint.net(rows)[0]
        assert found.shape == expected.shape
        assert float((found - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())
    if name.startswith("hf:"):
        assert checkpoint.config.class_names[:2] == ("animal 0", "animal 1")
        assert checkpoint.config.preprocessing.resize == (32, 32)
    if name in ONNX:  # one of a fixed batch is run row by row
        assert checkpoint.net.backbone.fixed_batch == (None if ONNX[name] else 1)


def test_an_onnx_file_s_weights_in_another_file_come_along(tmp_path: Path) -> None:
    file = onnx_file(tmp_path / "m.onnx", Small().eval(), dynamic=True, external_data=True)
    assert (tmp_path / "m.onnx.data").exists()
    with pytest.raises(ValueError, match="in other files"):
        OnnxNetwork().load_archive(file.read_bytes())
    assert imported(tmp_path / "out", str(file)).config.model.num_classes == 5


def test_an_onnx_file_that_is_no_classifier_is_one_sentence(tmp_path: Path) -> None:
    good = onnx_file(tmp_path / "good.onnx", Small().eval(), dynamic=True, external_data=True)
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "m.onnx").write_bytes(good.read_bytes())
    onnx_file(tmp_path / "map.onnx", nn.Conv2d(3, 2, 3), dynamic=True)
    for name, words in [("text", "ONNX file"), ("moved/m", "weights cannot be read"), ("map", "return logits")]:
        arguments = [str(tmp_path / f"{name}.onnx"), "--sigma", "0.25", "--out", str(tmp_path / "out")]
        result = CliRunner().invoke(import_app, arguments)
        assert result.exit_code == 1
        assert f"{name}.onnx" in str(result.exception)
        assert words in str(result.exception)


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("timm:resnet81", {}, "did you mean"),
        ("torchvision:resnet81", {}, "did you mean"),
        ("timm:", {}, "write timm:NAME"),
        ("timm:resnet18", {"classes": 10}, "leave --classes out"),
        ("torchvision:resnet18", {"weights": "nowhere.pth"}, "nowhere.pth cannot be read"),
        ("hf:x", {"weights": "random"}, "leave --weights out"),
    ],
)
def test_what_is_no_model_is_one_sentence(text: str, options: Any, words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        load_source(text, SourceOptions(**options))
    assert "\n" not in str(caught.value)


def test_what_brought_pictures_to_the_input_comes_along() -> None:
    for name in ("torchvision:resnet18", "timm:resnet18"):
        source = load_source(name, SourceOptions("random"))
        assert source.input_shape == (3, 224, 224)
        assert source.preprocessing is not None
        assert source.preprocessing.resize in (256, 235)
        assert source.class_names is not None
        assert (source.class_names[281], len(set(source.class_names))) == ("tabby", 1000)
        assert load_source(name, SourceOptions("random", size=64)).preprocessing is None
        assert load_source(name, SourceOptions("random", classes=10)).class_names is None


def test_random_weights_only_by_name(tmp_path: Path) -> None:
    source = load_source("torchvision:resnet18", SourceOptions("random", 3, 32))
    assert source.module(torch.rand(2, *source.input_shape)).shape == (2, 3)
    weights = source.module.state_dict()
    torch.save({key: value for key, value in weights.items() if "layer4" not in key}, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match="do not fit"):
        load_source("torchvision:resnet18", SourceOptions(str(tmp_path / "part.pth")))
    torch.save({f"net_{key}": value for key, value in weights.items()}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"no weight 'fc.bias' \(but net_fc.bias, say\)"):
        load_source("torchvision:resnet18", SourceOptions(str(tmp_path / "other.pth")))


@pytest.mark.parametrize("auxiliary", [True, False])
def test_a_file_of_googlenet_is_taken_for_one_that_goes_on_from_the_published_weights(
    tmp_path: Path, auxiliary: bool
) -> None:
    """Those have their input brought into another range by the module itself, which a state dict does not say."""
    torch.manual_seed(0)
    module = models.googlenet(
        weights=None, transform_input=True, aux_logits=auxiliary, init_weights=False, num_classes=4
    )
    torch.save(module.state_dict(), tmp_path / "weights.pth")
    found = load_source("torchvision:googlenet", SourceOptions(str(tmp_path / "weights.pth"), size=64))
    x_BCHW = torch.rand(2, 3, 64, 64)
    assert torch.equal(found.module.eval()(x_BCHW), module.eval()(x_BCHW))
    module.transform_input = False
    assert not torch.equal(found.module(x_BCHW), module(x_BCHW))


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.out = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.norm(x).flatten(1))


def prefixed(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{key}": value for key, value in state.items()}


WRITTEN: dict[str, Any] = {
    "plain": lambda state: state,
    "PyTorch's tutorial": lambda state: {"epoch": 3, "model_state_dict": state, "loss": 0.5},
    "data-parallel": lambda state: prefixed(state, "module."),
    "compiled, data-parallel": lambda state: prefixed(state, "_orig_mod.module."),
    "Lightning": lambda state: {"state_dict": prefixed(state, "model.") | {"loss.weight": torch.ones(3)}},
    "before PyTorch 0.4.1": lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize("how", WRITTEN)
def test_weights_are_found_wherever_a_training_loop_keeps_them(tmp_path: Path, how: str) -> None:
    net, file = Normed(), tmp_path / "net.pth"
    nn.init.normal_(net.norm.running_mean)
    torch.save(WRITTEN[how](net.state_dict()), file)
    found = read_state_dict(file, Normed())
    load_weights(other := Normed(), found, file)
    x = torch.rand(4, 1, 4, 4)
    assert torch.equal(other.eval()(x), net.eval()(x))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_densenets_published_before_names_lost_their_dots_are_read(tmp_path: Path, prefix: str) -> None:
    def net() -> nn.Module:
        return models.DenseNet(4, (1, 1), 8, num_classes=3)

    old = re.compile(r"(denselayer\d+\.(?:norm|conv))(\d)")
    source = net()
    state = {prefix + old.sub(r"\1.\2", key): value for key, value in source.state_dict().items()}
    assert f"{prefix}features.denseblock1.denselayer1.norm.1.weight" in state
    torch.save({key: value for key, value in state.items() if "tracked" not in key}, tmp_path / "net.pth")
    load_weights(other := net(), read_state_dict(tmp_path / "net.pth", other), tmp_path / "net.pth")
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(other.eval()(x), source.eval()(x))


@pytest.mark.parametrize("wrap", [nn.Identity, nn.DataParallel])
def test_a_layer_finds_the_version_that_wrote_its_weights(tmp_path: Path, wrap: Any) -> None:
    source = models.mnasnet0_5(num_classes=3)
    torch.save((source if wrap is nn.Identity else wrap(source)).state_dict(), tmp_path / "net.pth")
    load_weights(other := models.mnasnet0_5(num_classes=3), read_state_dict(tmp_path / "net.pth", other), Path())
    assert torch.equal(other.classifier[1].weight, source.classifier[1].weight)
    torch.save(dict(source.state_dict()), tmp_path / "bare.pth")
    with pytest.raises(CheckpointError, match=r"do not fit the model .version should be set"):
        load_weights(other, read_state_dict(tmp_path / "bare.pth", other), tmp_path / "bare.pth")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: prefixed(state, "student.") | prefixed(state, "teacher."), "Missing key.*norm.weight"),
        (lambda state: {k: v for k, v in state.items() if "running" not in k}, "Missing key.*norm.running_mean"),
        (lambda state: state | {"out.weight": torch.zeros(4, 16)}, "size mismatch for out.weight"),
    ],
)
def test_weights_of_two_networks_or_of_half_a_one_are_refused(tmp_path: Path, change: Any, words: str) -> None:
    torch.save(change(Normed().state_dict()), tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=f"do not fit the model .{words}"):
        load_weights(Normed(), read_state_dict(tmp_path / "net.pth", Normed()), tmp_path / "net.pth")


def test_a_file_of_unknown_kind_says_how_to_name_it(tmp_path: Path) -> None:
    for name, words in (("net.py", "write python:net.py:CLASS"), ("net.pth", "python:FILE.py:CLASS --weights net.pth")):
        result = CliRunner().invoke(import_app, [name, "--sigma", "0.25", "--out", str(tmp_path / "out")])
        assert words in str(result.exception)


def test_a_missing_package_is_named_with_its_extra() -> None:
    with pytest.raises(MissingPackageError, match=r"no_such_package.*pip install 'spacte-workers\[timm\]'"):
        optional_package("no_such_package", "timm")


def test_class_names_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\nemu\n")
    options = ("--weights", "random", "--classes", "3", "--size", "32", "--class-names", str(tmp_path / "names.txt"))
    assert imported(tmp_path / "out", "torchvision:resnet18", *options).config.class_names == ("cat", "dog", "emu")


NET = """
from torch import nn
from shape import CLASSES

class Net(nn.Module):
    def __init__(self, classes=CLASSES):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))

    def forward(self, x):
        return self.layers(x)

class Needs(Net):
    def __init__(self, width):
        super().__init__()

number = 3
fails = open
def text(): return "x"
"""


def test_a_class_in_a_file_of_one_s_own(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "shape.py").write_text("CLASSES = 5")
    torch.manual_seed(0)
    torch.save({"layers.1.weight": torch.randn(5, 64), "layers.1.bias": torch.zeros(5)}, tmp_path / "w.pth")
    where = f"python:{tmp_path / 'net.py'}"
    checkpoint = imported(
        tmp_path / "out", f"{where}:Net", "--weights", str(tmp_path / "w.pth"), "--input-shape", "1,8,8"
    )
    weight = torch.load(tmp_path / "w.pth")["layers.1.weight"]
    x = torch.rand(3, 1, 8, 8)
    assert torch.allclose(checkpoint.net(x)[0], x.flatten(1) @ weight.T, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("net.py:Net", {"weights": "random"}, "--input-shape"),
        ("net.py:Net", {"input_shape": (1, 8, 8)}, "--weights"),
        ("net.py", {"weights": "random", "input_shape": (1, 8, 8)}, "FILE.py:CLASS"),
        ("none.py:Net", {"weights": "random", "input_shape": (1, 8, 8)}, "no Python file"),
        ("net.py:Nets", {"weights": "random", "input_shape": (1, 8, 8)}, "did you mean Net"),
        ("net.py:Needs", {"weights": "random", "input_shape": (1, 8, 8)}, "defaults"),
        ("net.py:number", {"weights": "random", "input_shape": (1, 8, 8)}, "fails"),
        ("net.py:text", {"weights": "random", "input_shape": (1, 8, 8)}, "no torch.nn.Module"),
        ("bad.py:Net", {"weights": "random", "input_shape": (1, 8, 8)}, "cannot be run"),
    ],
)
def test_what_is_no_class_is_one_sentence(tmp_path: Path, name: str, options: Any, words: str) -> None:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "bad.py").write_text("import no_such_package")
    (tmp_path / "shape.py").write_text("CLASSES = 5")
    with pytest.raises(CheckpointError, match=words):
        load_source(f"python:{tmp_path}/{name}" if ":" in name else f"python:{name}", SourceOptions(**options))
