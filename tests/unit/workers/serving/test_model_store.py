"""The model store: what is in a folder, which versions answer, and when an old version may go."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from spacte_workers.errors import ModelNotFoundError, ModelNotReadyError
from spacte_workers.load_steps import LoadStep
from spacte_workers.serving.model_store import ModelStore
from spacte_workers.serving.served_model import ServedModel

READING = LoadStep("reading", "reads the checkpoint")


@pytest.fixture
def folder(tmp_path: Path, make_checkpoint: Callable[..., str]) -> Path:
    """Two models and something that is none."""
    make_checkpoint(tmp_path / "a", seed=1)
    make_checkpoint(tmp_path / "b", seed=2, heads=3, sigma=0.5)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("no model")
    (tmp_path / ".trash").mkdir()
    (tmp_path / ".trash" / "config.json").write_text("no model either")
    return tmp_path


def served(store: ModelStore, name: str) -> ServedModel:
    entry = store.entry(name)
    assert entry.config is not None
    assert entry.version is not None
    return ServedModel(name, entry.version, entry.config, "fp32", "plain")


def test_sub_folders_with_a_checkpoint_are_models(folder: Path) -> None:
    store = ModelStore(folder)
    assert store.scan() == ["a", "b"]
    models = {model.name: model for model in store.listing()}
    assert (models["b"].heads, models["b"].sigmas, models["b"].input_shape) == (3, [0.5], [1, 8, 8])
    assert models["b"].num_classes == 10
    assert models["a"].state == "unloaded"
    assert models["a"].version != models["b"].version


def test_a_checkpoint_itself_is_one_model_by_its_folders_name(folder: Path) -> None:
    store = ModelStore(folder / "a")
    assert store.scan() == ["a"]


def test_an_empty_or_missing_folder_has_no_models(tmp_path: Path) -> None:
    assert ModelStore(tmp_path).scan() == []
    assert ModelStore(tmp_path / "missing").scan() == []


def test_a_broken_checkpoint_is_failed_with_its_reason_and_the_others_stay(folder: Path) -> None:
    (folder / "a" / "config.json").write_text("{}")
    store = ModelStore(folder)
    store.scan()
    states = {model.name: model.state for model in store.listing()}
    assert states == {"a": "failed", "b": "unloaded"}
    assert "config.json" in store.entry("a").reason
    assert [bool(model.reason) for model in store.listing()] == [True, False]
    with pytest.raises(ModelNotReadyError, match=r"config\.json") as caught:
        store.served("a")
    assert caught.value.state == "failed"


def test_a_mended_checkpoint_can_be_loaded_again(folder: Path) -> None:
    good = (folder / "a" / "config.json").read_bytes()
    (folder / "a" / "config.json").write_text("{}")
    store = ModelStore(folder)
    store.scan()
    (folder / "a" / "config.json").write_bytes(good)
    store.scan()
    assert store.entry("a").state == "unloaded"
    assert [store.entry(name).reason for name in store.names()] == ["", ""]


def test_a_name_that_is_gone_disappears_unless_it_is_served(folder: Path) -> None:
    store = ModelStore(folder)
    store.scan()
    store.ready("a", served(store, "a"))
    shutil.rmtree(folder / "a")
    shutil.rmtree(folder / "b")
    store.scan()
    assert store.names() == ["a"]
    assert store.served("a").name == "a"


def test_the_only_served_model_needs_no_name(folder: Path) -> None:
    store = ModelStore(folder)
    store.scan()
    with pytest.raises(ModelNotFoundError, match="No model is served"):
        store.served(None)
    store.ready("a", served(store, "a"))
    assert store.served(None).name == "a"
    store.ready("b", served(store, "b"))
    with pytest.raises(ModelNotFoundError, match="a, b"):
        store.served(None)


def test_an_unknown_name_is_told_what_there_is(folder: Path) -> None:
    store = ModelStore(folder)
    store.scan()
    with pytest.raises(ModelNotFoundError, match=r"'c'.*a, b"):
        store.served("c")


def test_a_replacement_that_fails_leaves_the_old_version_answering(folder: Path) -> None:
    store = ModelStore(folder)
    store.scan()
    old = served(store, "a")
    store.ready("a", old)
    store.loading("a", "new", READING)
    assert store.served("a") is old
    store.failed("a", "out of memory")
    assert store.served("a") is old
    assert store.entry("a").state == "ready"
    assert [store.entry(name).reason for name in store.names()] == ["out of memory", ""]


def test_a_replacement_has_another_key_and_returns_the_old_version(
    folder: Path, make_checkpoint: Callable[..., str]
) -> None:
    store = ModelStore(folder)
    store.scan()
    old = served(store, "a")
    assert store.ready("a", old) is None
    make_checkpoint(folder / "a", seed=3)
    store.scan()
    new = served(store, "a")
    assert new.key != old.key
    assert store.ready("a", new) is old
    assert store.served("a") is new


async def test_a_version_in_use_is_waited_for(folder: Path) -> None:
    store = ModelStore(folder)
    store.scan()
    model = served(store, "a")
    await asyncio.wait_for(model.unused(), 1)  # nobody has used it yet
    with model.used():
        with model.used():
            waiting = asyncio.create_task(model.unused())
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
    await asyncio.wait_for(waiting, 1)


def test_a_version_that_answers_is_shown_beside_the_one_that_is_loaded(folder: Path) -> None:
    store = ModelStore(folder)
    store.scan()
    store.ready("a", served(store, "a"))
    store.loading("a", "new", READING)
    a, b = store.listing()
    assert (a.state, a.target_version, a.answers) == ("loading", "new", True)
    assert (b.state, b.target_version, b.answers) == ("unloaded", None, False)
    store.loading("b", b.version, READING)
    assert not store.listing()[1].answers


def test_without_a_name_models_that_are_loading_at_the_start_are_waited_for(folder: Path) -> None:
    """Which one answers must not hang on which is loaded first."""
    store = ModelStore(folder)
    with pytest.raises(ModelNotReadyError, match="try again") as caught:
        store.served("a")
    assert caught.value.state == "loading"
    assert sorted(store.find()) == ["a", "b"]
    store.scan()
    for _ in range(2):
        with pytest.raises(ModelNotReadyError, match="try again") as caught:
            store.served(None)
        assert caught.value.state == "loading"
        store.ready("a", served(store, "a"))
    assert store.served("a").name == "a"
    store.failed("b", "It does not work.")
    assert store.served(None).name == "a"
    store.loading("b", "new", READING)  # as an administrator asks for, later
    assert store.served(None).name == "a"


def test_the_lightest_models_are_loaded_first(folder: Path) -> None:
    weights = folder / "a" / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + bytes(1 << 20))
    assert ModelStore(folder).find() == ["b", "a"]


def test_how_far_a_load_is_can_be_seen(folder: Path) -> None:
    store = ModelStore(folder)
    store.find()
    store.scan()
    a, b = store.listing()
    assert (a.state, a.answers, b.progress and b.progress.step) == ("loading", False, "waiting")
    store.loading("a", a.version, READING)
    progress = store.listing()[0].progress
    assert progress is not None
    assert (progress.step, progress.number, progress.doing) == ("reading", 3, "reads the checkpoint")
    assert progress.number < progress.steps
    assert "step 3 of 7, reads the checkpoint" in store.still_loading()["a"]
    with pytest.raises(ModelNotReadyError, match="step 3 of 7, reads the checkpoint"):
        store.served("a")
    store.ready("a", served(store, "a"))
    assert store.listing()[0].progress is None
    assert list(store.still_loading()) == ["b"]
