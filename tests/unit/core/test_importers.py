"""Promise: published files of every layout import with the right answers, and nothing in them is ever run."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spacte_core.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from spacte_core.importers import Format, import_checkpoint, import_state, reference_name
from spacte_core.models import ModelConfig, MultiHeadNet, Normalization, build


def original(arch: str = "cifar_resnet14", heads: int = 1, kind: str = "standard") -> MultiHeadNet:
    imagenet = arch.startswith("imagenet")
    config = ModelConfig(
        arch=arch,
        heads=heads,
        num_classes=1000 if imagenet else 10,
        input_shape=(3, 224, 224) if imagenet else (3, 32, 32),
        normalization=Normalization.of("imagenet" if imagenet else "cifar10", kind),  # type: ignore[arg-type]
    )
    torch.manual_seed(0)
    net = build(config)
    net(torch.rand(4, 3, 64, 64) if imagenet else torch.rand(4, 3, 16, 16))  # moves the running statistics
    return net.eval()


def layout(net: MultiHeadNet, prefix: str, *, multihead: bool) -> dict[str, Tensor]:
    """The state dict of `net` as the published code would have saved it."""
    imagenet = "backbone.layer3.0.conv1.weight" in net.state_dict()
    config = ModelConfig(
        arch="imagenet_resnet50" if imagenet else "cifar_resnet14", num_classes=10, input_shape=(3, 1, 1)
    )
    return {prefix + reference_name(key, config, multihead=multihead): value for key, value in net.state_dict().items()}


def same(net: MultiHeadNet, other: MultiHeadNet) -> bool:
    x = torch.rand(2, 3, 16, 16)
    return all(torch.equal(a, b) for a, b in zip(net(x), other(x), strict=True))


CASES: list[tuple[Format, str, int, str, bool, str]] = [
    ("spacte", "1.", 3, "state_dict", True, "standard"),
    ("spacte", "1.module.", 2, "state_dict", True, "standard"),
    ("spacte", "module.1.", 1, "state_dict", True, "standard"),
    ("cohen", "1.", 1, "state_dict", False, "standard"),
    ("cohen", "1.module.", 1, "state_dict", False, "standard"),
    ("macer", "", 1, "net", False, "none"),
]


@pytest.mark.parametrize(("format_", "prefix", "heads", "key", "multihead", "kind"), CASES)
def test_every_layout_imports_and_answers_alike(
    tmp_path: Path, format_: Format, prefix: str, heads: int, key: str, multihead: bool, kind: str
) -> None:
    net = original(heads=heads, kind=kind)
    extras = {"epoch": 90, "arch": "cifar_resnet14", "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}}
    torch.save({key: layout(net, prefix, multihead=multihead), **extras}, tmp_path / "file.pth")
    imported, config = import_checkpoint(tmp_path / "file.pth", format_, sigma=0.5)
    assert same(imported, net)
    assert not imported.training
    assert config.model.arch == "cifar_resnet14"
    assert (config.model.heads, config.model.num_classes) == (heads, 10)
    assert config.model.normalization.kind == kind
    assert config.sigma == 0.5
    save_checkpoint(tmp_path / "out", imported, config)
    assert same(load_checkpoint(tmp_path / "out").net, net)


@pytest.mark.slow
@pytest.mark.parametrize(("format_", "heads"), [("spacte", 2), ("cohen", 1)])
def test_imagenet_networks_import(format_: Format, heads: int) -> None:
    net = original("imagenet_resnet50", heads)
    state = layout(net, "1.module.", multihead=format_ == "spacte")
    assert any(".layer4." in key for key in state) == (format_ == "cohen")
    imported, config = import_state(state, format_)  # type: ignore[arg-type]
    assert config == ModelConfig(
        arch="imagenet_resnet50",
        heads=heads,
        num_classes=1000,
        input_shape=(3, 224, 224),
        normalization=Normalization.of("imagenet"),
    )
    x = torch.rand(1, 3, 64, 64)
    assert all(torch.equal(a, b) for a, b in zip(imported.eval()(x), net(x), strict=True))


@pytest.mark.parametrize("kind", ["standard", "center", "none"])
def test_normalisation_is_an_option(kind: str) -> None:
    net = original()
    state = layout(net, "1.", multihead=False)
    imported, config = import_state(state, "cohen", normalization=kind)  # type: ignore[arg-type]
    assert config.normalization == Normalization.of("cifar10", kind)  # type: ignore[arg-type]
    assert same(imported.eval(), net) == (kind == "standard")
    net.normalize = config.normalization.build()
    assert same(imported, net)


def test_the_data_set_chooses_the_constants() -> None:
    state = layout(original(), "1.", multihead=False)
    _, config = import_state(state, "cohen", dataset="svhn")
    assert config.normalization == Normalization.of("svhn")
    with pytest.raises(CheckpointError, match="--dataset"):
        import_state(state, "cohen", dataset="no-such-set")


def test_double_precision_is_kept_and_half_becomes_float32() -> None:
    state = layout(original().double(), "1.", multihead=False)
    net, _ = import_state(state, "cohen")
    assert net.get_parameter("heads.0.fc.weight").dtype == torch.float64
    net, _ = import_state({key: value.half() for key, value in state.items()}, "cohen")
    assert net.get_parameter("heads.0.fc.weight").dtype == torch.float32


class Hostile:
    """Writes a file when unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.write_text, (self.trace, "run")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_refused_without_being_run(tmp_path: Path, zipped: bool) -> None:
    trace, file = tmp_path / "trace", tmp_path / "file.pth"
    state = layout(original(), "1.", multihead=False)
    content = {"state_dict": state, "optimizer": Hostile(trace)}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="more than weights") as caught:
        import_checkpoint(file, "cohen", sigma=0.25)
    assert not trace.exists()
    assert "\n" not in str(caught.value)
    torch.load(file, weights_only=False)
    assert trace.read_text() == "run"  # it was hostile indeed


def without(state: Mapping[str, Tensor], *keys: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key not in keys}


def test_what_does_not_fit_is_said() -> None:
    single = layout(original(), "1.", multihead=False)
    heads = layout(original(heads=2), "1.", multihead=True)
    wide = {key: value.repeat_interleave(2, dim=0) if value.dim() else value for key, value in single.items()}
    for state, format_, words in [
        (single, "spacte", "has no heads.*cohen"),
        (heads, "cohen", "has heads.*spacte"),
        (without(single, "1.bn1.bias"), "cohen", r"1 weights are missing or too many.*1\.bn1\.bias"),
        (single | {"1.extra": torch.zeros(1)}, "cohen", r"1\.extra"),
        (without(single, "1.fc.weight"), "cohen", "no linear layer"),
        ({"weight": torch.zeros(1)}, "cohen", "no ResNet"),
        (wide, "cohen", "widths"),
    ]:
        with pytest.raises(CheckpointError, match=words):
            import_state(state, format_)  # type: ignore[arg-type]


def test_files_that_are_none_are_said(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps([1, 2]))
    torch.save({"model": {}}, tmp_path / "other.pth")
    torch.save(torch.zeros(1), tmp_path / "tensor.pth")
    torch.save({"state_dict": layout(original(), "1.", multihead=False)}, tmp_path / "good.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "good.pth").read_bytes()[:-1000])
    for name in ("none", "text", "empty", "pickle", "other", "tensor", "cut"):
        with pytest.raises(CheckpointError) as caught:
            import_checkpoint(tmp_path / f"{name}.pth", "cohen", sigma=0.25)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)
    with pytest.raises(CheckpointError, match="10 classes"):
        import_checkpoint(tmp_path / "good.pth", "cohen", sigma=0.25, class_names=("a", "b"))


def test_files_without_a_wrapper_or_batch_counters_are_read(tmp_path: Path) -> None:
    """A bare state dict, and a file of PyTorch before 0.4.1, which had no num_batches_tracked."""
    net = original()
    weights = layout(net, "1.", multihead=False)
    old = {key: value for key, value in weights.items() if not key.endswith("num_batches_tracked")}
    for name, content in {"bare": weights, "old": {"state_dict": old}}.items():
        torch.save(content, tmp_path / f"{name}.pth")
        found, _ = import_checkpoint(tmp_path / f"{name}.pth", "cohen", sigma=0.25)
        assert same(found, net)


@pytest.mark.parametrize(
    ("name", "change"), [("1.fc.weight", lambda w: w * torch.nan), ("1.bn1.running_var", lambda w: w - 5)]
)
def test_a_network_without_defined_answers_is_not_imported(tmp_path: Path, name: str, change: Any) -> None:
    state = layout(original(), "1.", multihead=False)
    torch.save({"state_dict": state | {name: change(state[name])}}, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="gives NaN or infinite logits: import one from before"):
        import_checkpoint(tmp_path / "net.pth", "cohen", sigma=0.25)


def test_weights_without_names_are_none(tmp_path: Path) -> None:
    torch.save({"state_dict": {0: torch.zeros(3)}}, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="has no 'state_dict' with weights"):
        import_checkpoint(tmp_path / "net.pth", "cohen", sigma=0.25)


def test_a_file_without_running_statistics_says_so(tmp_path: Path) -> None:
    weights = layout(original(), "1.", multihead=False)
    torch.save({key: value for key, value in weights.items() if "running_" not in key}, tmp_path / "half.pth")
    with pytest.raises(CheckpointError, match=r"no running statistics of \d+ batch normalisations \(first 1\.bn1"):
        import_checkpoint(tmp_path / "half.pth", "cohen", sigma=0.25)
