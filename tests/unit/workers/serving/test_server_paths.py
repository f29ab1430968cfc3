"""Promise: what callers read of a model names no folder of the server's machine."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from spacte_workers.errors import ModelNotReadyError
from spacte_workers.serving.model_store import ModelStore
from spacte_workers.serving.server_paths import data_set_name, without_paths


@pytest.mark.parametrize(
    ("sentence", "told"),
    [
        ("/models/a b/digits/config.json is damaged: copy it.", "config.json is damaged: copy it."),
        ("'/srv/x/model.safetensors' cannot be read", "'model.safetensors' cannot be read"),
        ("file:///srv/x/model.pt2 (see /srv/y/log.txt).", "model.pt2 (see log.txt)."),
        ("ask https://host.example/v2/x again, 3/4 done", "ask https://host.example/v2/x again, 3/4 done"),
        ("Nothing is named here.", "Nothing is named here."),
    ],
)
def test_a_path_becomes_its_last_name(sentence: str, told: str) -> None:
    assert without_paths(sentence, Path("/models/a b/digits")) == told


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("folder:/data/birds", "folder:birds"),
        ("parquet:../data/cifar10/", "parquet:cifar10"),
        ("hf:uoft-cs/cifar100", "hf:uoft-cs/cifar100"),
        ("cifar10", "cifar10"),
        (None, None),
    ],
)
def test_a_data_set_is_named_without_its_folder(source: str | None, told: str | None) -> None:
    assert data_set_name(source) == told


def test_a_broken_model_and_a_data_set_of_a_folder(tmp_path: Path, make_checkpoint: Callable[..., str]) -> None:
    make_checkpoint(tmp_path / "trained")
    config = tmp_path / "trained" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dataset": f"folder:{tmp_path}/birds"}))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    store = ModelStore(tmp_path)
    store.scan()
    broken, trained = store.listing()
    assert trained.dataset == "folder:birds"
    assert broken.reason
    assert "config.json" in broken.reason
    assert str(tmp_path) not in broken.model_dump_json() + trained.model_dump_json()
    with pytest.raises(ModelNotReadyError) as refused:
        store.served("broken")
    assert str(tmp_path) not in str(refused.value)
