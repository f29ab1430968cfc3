"""Promise: an exported program is a classifier like any other, and a hostile one is refused before it is read."""

import copy
import io
import json
import pickle
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from spacte_core.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from spacte_core.importers import import_checkpoint
from spacte_core.models import ModelConfig, build, program_archive
from spacte_core.models.exported import Program


class Own(nn.Module):
    """A classifier of someone else's, with two heads or one."""

    def __init__(self, heads: int = 2) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.GELU())
        self.heads = nn.ModuleList(nn.Linear(4, 5) for _ in range(heads))

    def forward(self, x_BCHW: Tensor) -> Tensor | list[Tensor]:
        h = self.body(x_BCHW).mean(dim=(2, 3))
        z = [head(h) for head in self.heads]
        return z if len(z) > 1 else z[0]


def export(net: nn.Module, *, dynamic: bool = True, shape: tuple[int, ...] = (2, 1, 6, 6)) -> bytes:
    batch = ({0: torch.export.Dim("batch")},) if dynamic else None
    program = torch.export.export(net.eval(), (torch.rand(shape),), dynamic_shapes=batch)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def archive() -> bytes:
    torch.manual_seed(0)
    return export(Own())


@pytest.mark.slow
@pytest.mark.parametrize("heads", [1, 2])
def test_it_answers_as_before_through_a_checkpoint_a_copy_and_a_pickle(tmp_path: Path, heads: int) -> None:
    net = Own(heads)
    (tmp_path / "own.pt2").write_bytes(export(net))
    imported, config = import_checkpoint(tmp_path / "own.pt2", "torch-export", sigma=0.25)
    assert config.model == ModelConfig(arch="exported", heads=heads, num_classes=5, input_shape=(1, 6, 6))
    version = save_checkpoint(tmp_path / "out", imported, config)
    loaded = load_checkpoint(tmp_path / "out")
    assert loaded.version == version
    x = torch.rand(7, 1, 6, 6)
    expected = net(x) if heads > 1 else [net(x)]
    for other in (imported, loaded.net, copy.deepcopy(loaded.net), pickle.loads(pickle.dumps(loaded.net))):
        assert all(torch.equal(a, b) for a, b in zip(other(x), expected, strict=True))
        other.eval().train().to(torch.bfloat16)
        assert all(torch.equal(a, b) for a, b in zip(other(x), expected, strict=True))


def test_normalisation_can_be_put_before_it(tmp_path: Path, archive: bytes) -> None:
    (tmp_path / "own.pt2").write_bytes(archive)
    plain, _ = import_checkpoint(tmp_path / "own.pt2", "torch-export", sigma=0.25)
    centred, _ = import_checkpoint(
        tmp_path / "own.pt2", "torch-export", sigma=0.25, normalization="center", dataset="mnist"
    )
    x = torch.rand(2, 1, 6, 6)
    assert torch.equal(centred(x)[0], plain(x - 0.1307)[0])


def test_stack_traces_do_not_travel(tmp_path: Path, archive: bytes) -> None:
    assert b"test_exported.py" in entry(archive, "models/model.json")
    (tmp_path / "own.pt2").write_bytes(archive)
    net, _ = import_checkpoint(tmp_path / "own.pt2", "torch-export", sigma=0.25)
    assert b"test_exported.py" not in bytes(net.state_dict()["backbone._extra_state"].tolist())


def test_the_same_program_is_the_same_bytes_on_another_day(monkeypatch: pytest.MonkeyPatch, archive: bytes) -> None:
    """So that a later load finds what an earlier one chose for it."""
    today = program_archive.screened(archive)
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert program_archive.screened(archive) == today
    assert program_archive.screened(today) == today


def test_its_heads_come_as_one_tensor(tmp_path: Path, archive: bytes) -> None:
    """So that rows of it can be picked, as for a vote by consensus."""
    (tmp_path / "own.pt2").write_bytes(archive)
    net, _ = import_checkpoint(tmp_path / "own.pt2", "torch-export", sigma=0.25)
    x = torch.rand(3, 1, 6, 6)
    features = net.backbone(x)
    assert features.shape == (3, 2, 5)
    assert all(torch.equal(head(features), z) for head, z in zip(net.heads, net(x), strict=True))


def test_before_its_weights_it_says_so() -> None:
    config = ModelConfig(arch="exported", num_classes=5, input_shape=(1, 6, 6))
    with pytest.raises(RuntimeError, match="load"):
        build(config)(torch.rand(1, 1, 6, 6))


class Wrong(nn.Module):
    """Takes and returns what a classifier does not."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        return x.sum() if self.kind == "scalar" else x.flatten(1)[:, :1]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda: export(Own(), dynamic=False), "dynamic first dimension"),
        (lambda: export(Wrong("scalar")), "does not return logits"),
        (lambda: export(Wrong("one class")), "does not return logits"),
        (lambda: export(nn.Flatten(), shape=(2, 3)), "one 4-d input"),
        (lambda: b"hello", "zip"),
        (lambda: export(Own())[:-500], "zip|no models"),
    ],
)
def test_what_is_no_classifier_is_said(tmp_path: Path, data: Callable[[], bytes], words: str) -> None:
    (tmp_path / "own.pt2").write_bytes(data())
    with pytest.raises(CheckpointError, match=words) as caught:
        import_checkpoint(tmp_path / "own.pt2", "torch-export", sigma=0.25)
    assert "\n" not in str(caught.value)


def entry(archive: bytes, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return file.read(f"{file.namelist()[0].partition('/')[0]}/{name}")


def rewritten(archive: bytes, name: str, change: Callable[[Any], Any]) -> bytes:
    """The archive with one JSON entry changed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(buffer, "w") as target:
        for info in source.infolist():
            data = source.read(info)
            if info.filename.endswith(name):
                data = json.dumps(change(json.loads(data))).encode()
            target.writestr(info.filename, data)
    return buffer.getvalue()


def added(archive: bytes, name: str, data: bytes) -> bytes:
    buffer = io.BytesIO(archive)
    with zipfile.ZipFile(buffer, "a") as file:
        file.writestr(f"{file.namelist()[0].partition('/')[0]}/{name}", data)
    return buffer.getvalue()


def set_in(path: str, value: object) -> Callable[[Any], Any]:
    """Replace what a dotted path leads to."""

    def change(document: Any) -> Any:
        *parents, last = path.split(".")
        level = document
        for key in parents:
            level = level[int(key) if isinstance(level, list) else key]
        level[int(last) if isinstance(level, list) else last] = value
        return document

    return change


NODE = "graph_module.graph.nodes.0"
SIZE = "graph_module.graph.tensor_values.x_bchw.sizes.0.as_expr.expr_str"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_in(f"{NODE}.target", "torch.hub.load"), "torch.hub.load"),
        (set_in(f"{NODE}.target", "torch.ops.aten.from_file.default"), "from_file"),
        (set_in(f"{NODE}.target", "_operator.methodcaller"), "methodcaller"),
        (set_in(f"{NODE}.name", "x; import os"), "import os"),
        (set_in(SIZE, "__import__('os').getcwd()"), "__import__"),
        (set_in(SIZE, "Symbol('s0').__class__"), "__class__"),
        (set_in(SIZE, "[Symbol][0]('s0')"), "Symbol"),
        (set_in(SIZE, "Symbol('print(1)')"), "print"),
        (set_in(SIZE, "Symbol("), "Symbol"),
        (set_in("graph_module.module_call_graph.0.signature.in_spec", '[1, {"type": "x.Y"}]'), "x.Y"),
        (set_in("graph_module.module_call_graph.0.signature.out_spec", [1]), "damaged"),
        (lambda _: [], "damaged"),
    ],
)
def test_a_program_that_could_run_anything_is_refused(
    tmp_path: Path, archive: bytes, change: Callable[[Any], Any], words: str
) -> None:
    (tmp_path / "own.pt2").write_bytes(rewritten(archive, "models/model.json", change))
    with pytest.raises(CheckpointError, match="not taken for a classifier") as caught:
        import_checkpoint(tmp_path / "own.pt2", "torch-export", sigma=0.25)
    assert words in str(caught.value)


class Hostile:
    """Writes a file when unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.write_text, (self.trace, "run")


def pickled(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def hostile_archives(archive: bytes, trace: Path) -> dict[str, bytes]:
    """Archives that `torch.export.load` would run code for."""
    config = "data/weights/model_weights_config.json"

    def pickle_first(document: Any) -> Any:
        first = next(iter(document["config"].values()))
        return {"config": document["config"] | {"body.0.weight": first | {"use_pickle": True}}}

    opaque = {"config": {"x": {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True}}}
    guard = [f"__import__('pathlib').Path({str(trace)!r}).write_text('run')"]
    bad = pickled(Hostile(trace))
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        kept = {name: file.read(name) for name in file.namelist()}
    swapped = io.BytesIO()
    with zipfile.ZipFile(swapped, "w") as file:
        for name, data in kept.items():
            file.writestr(name, bad if name.endswith(("sample_inputs/model.pt", "weight_0")) else data)
    return {
        "sample inputs": swapped.getvalue(),
        "a weight": rewritten(swapped.getvalue(), config, pickle_first),
        "a constant": added(
            rewritten(archive, "model_constants_config.json", lambda _: opaque),
            "data/constants/opaque_obj_0",
            pickle.dumps(Hostile(trace)),
        ),
        "legacy weights": added(archive, "data/weights/model.pt", bad),
        "a guard": rewritten(archive, "models/model.json", set_in("guards_code", guard)),
    }


@pytest.mark.parametrize("where", ["sample inputs", "a weight", "a constant", "legacy weights"])
def test_a_hostile_pickle_is_refused_without_being_run(tmp_path: Path, archive: bytes, where: str) -> None:
    trace = tmp_path / "trace"
    (tmp_path / "own.pt2").write_bytes(hostile_archives(archive, trace)[where])
    with pytest.raises(CheckpointError, match="not taken for a classifier"):
        import_checkpoint(tmp_path / "own.pt2", "torch-export", sigma=0.25)
    assert not trace.exists()


def test_shape_guards_are_source_code_and_are_dropped(tmp_path: Path, archive: bytes) -> None:
    trace = tmp_path / "trace"
    (tmp_path / "own.pt2").write_bytes(hostile_archives(archive, trace)["a guard"])
    net, _ = import_checkpoint(tmp_path / "own.pt2", "torch-export", sigma=0.25)
    net(torch.rand(2, 1, 6, 6))
    assert not trace.exists()


def test_a_hostile_program_in_a_checkpoint_folder_is_refused(tmp_path: Path, archive: bytes) -> None:
    trace = tmp_path / "trace"
    (tmp_path / "own.pt2").write_bytes(archive)
    net, config = import_checkpoint(tmp_path / "own.pt2", "torch-export", sigma=0.25)
    cast(Program, net.backbone).archive = hostile_archives(archive, trace)["sample inputs"]
    save_checkpoint(tmp_path / "out", net, config)
    with pytest.raises(CheckpointError, match="do not fit"):
        load_checkpoint(tmp_path / "out")
    assert not trace.exists()
