"""Promises: sets are found however people unpack, clone or name them; what is not theirs is passed over."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from spacte_core.data import DataConfig, DataError, Split, load_data

CLASSES = ("one", "two", "zero")


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 5), number, np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def write(root: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(number))
    return root


def classes(below: str = "", count: int = 10) -> list[str]:
    return [f"{below}{name}/{number}.png" for name in CLASSES for number in range(count)]


def loaded(root: Path, split: Split, kind: str = "folder") -> tuple[int, list[str]]:
    data = load_data(DataConfig(source=f"{kind}:{root}", loader_processes=0), split)
    return len(data), list(data.class_names)


@pytest.mark.parametrize("wrapped", ["", "set/", "data/set/", "Digits v2/data/"])
@pytest.mark.parametrize(
    ("train", "test"), [("train", "test"), ("Train", "Val"), ("training", "testing"), ("TRAIN", "Validation")]
)
def test_splits_are_found_where_archives_unpack_them(tmp_path: Path, wrapped: str, train: str, test: str) -> None:
    write(tmp_path, classes(f"{wrapped}{train}/") + classes(f"{wrapped}{test}/", 2) + ["__MACOSX/set/._1.png"])
    assert loaded(tmp_path, "train") == (30, list(CLASSES))
    assert loaded(tmp_path, "test") == (6, list(CLASSES))


@pytest.mark.parametrize("wrapped", ["", "digits/", "a/b/"])
def test_classes_alone_are_found_there_too(tmp_path: Path, wrapped: str) -> None:
    write(tmp_path, classes(wrapped))
    assert loaded(tmp_path, "train") == (27, list(CLASSES))


LEFT = (
    ".git/1.png",
    "zero/.thumbnails/1.png",
    "zero/._1.png",
    "@eaDir/1.png",
    "zero/@eaDir/1.png",
    "$RECYCLE.BIN/1.png",
    "lost+found/1.png",
    "#recycle/1.png",
    "System Volume Information/1.png",
    "zero/__pycache__/1.png",
)


@pytest.mark.parametrize("left", LEFT)
def test_what_systems_leave_is_no_class_and_no_image(tmp_path: Path, left: str) -> None:
    write(tmp_path, [*classes(), left])
    assert loaded(tmp_path, "train") == (27, list(CLASSES))


def test_classes_may_be_called_after_characters(tmp_path: Path) -> None:
    write(tmp_path, [f"{name}/{number}.png" for name in "#$@A" for number in range(10)])
    assert loaded(tmp_path, "train") == (36, ["#", "$", "@", "A"])


@pytest.mark.parametrize("label", [255, 2**64 - 1])
def test_a_label_beyond_all_classes_is_refused_at_once(tmp_path: Path, label: int) -> None:
    labels = pa.array([*range(3), label], pa.uint64())
    images = [{"bytes": picture(number), "path": None} for number in range(4)]
    pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / "train-0.parquet")
    with pytest.raises(DataError, match=f"go up to {label}, but 4 images cannot show so many"):
        loaded(tmp_path, "train", "parquet")


@pytest.mark.parametrize("left", ["__MACOSX", ".cache", "@eaDir"])
def test_a_set_of_parquet_files_is_found_beside_what_systems_leave(tmp_path: Path, left: str) -> None:
    for folder in ("mnist", left):
        published(tmp_path / folder / "train-0.parquet", 6)
        published(tmp_path / folder / "test-0.parquet", 3)
    assert loaded(tmp_path, "train", "parquet")[0] == 6


def test_a_single_split_is_no_class(tmp_path: Path) -> None:
    write(tmp_path, classes("test/"))
    assert loaded(tmp_path, "test") == (30, list(CLASSES))
    with pytest.raises(DataError, match="test folder but no train folder"):
        loaded(tmp_path, "train")


def published(path: Path, rows: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": picture(number), "path": None} for number in range(rows)]
    pq.write_table(
        pa.table({"image": images, "label": pa.array([number % 3 for number in range(rows)], pa.uint8())}), path
    )


LAYOUTS = {
    "data": ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
    "configuration": ("mnist/train-00000-of-00001-ab12.parquet", "mnist/test-00000-of-00001-cd34.parquet"),
    "the hub's conversion": ("default/train/0000.parquet", "default/test/0000.parquet"),
    "folders of splits": ("train/0000.parquet", "validation/0000.parquet"),
    "folders of splits in data": ("data/train/0000.parquet", "data/test/0000.parquet"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_clones_of_hubs_are_read_as_they_are(tmp_path: Path, layout: str) -> None:
    train, test = LAYOUTS[layout]
    published(tmp_path / train, 6)
    published(tmp_path / test, 3)
    for junk in (".git/train-0.parquet", "README.md", str(Path(train).with_name("._train-0.parquet"))):
        (tmp_path / junk).parent.mkdir(exist_ok=True)
        (tmp_path / junk).write_bytes(b"junk")
    assert loaded(tmp_path, "train", "parquet")[0] == 6
    assert loaded(tmp_path, "test", "parquet")[0] == 3


def test_a_clone_without_its_large_files_says_so(tmp_path: Path) -> None:
    (tmp_path / "train-0.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(DataError, match=r"pointer of Git LFS: fetch the file with `git lfs pull`\."):
        loaded(tmp_path, "train", "parquet")


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A data set in the hub's cache, and no network."""
    constants = pytest.importorskip("huggingface_hub.constants")
    commit = "0123456789abcdef0123456789abcdef01234567"
    place = tmp_path / "datasets--someone--digits"
    published(place / "snapshots" / commit / "plain" / "train-0.parquet", 6)
    published(place / "snapshots" / commit / "plain" / "test-0.parquet", 3)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return "someone/digits"


def test_a_set_of_the_hub_is_named(cached: str) -> None:
    for name in (cached, f"{cached}/plain"):
        data = load_data(DataConfig(source=f"hf:{name}"), "test")
        assert (len(data), data.input_shape) == (3, (1, 4, 5))


def test_a_set_that_the_hub_does_not_give_is_told(cached: str) -> None:
    assert cached
    with pytest.raises(
        DataError, match=r"hf:someone/else could not be fetched .*or clone it and name its folder, parquet:PATH\."
    ):
        load_data(DataConfig(source="hf:someone/else"), "test")


def test_a_job_takes_a_set_of_the_hub(cached: str) -> None:
    from spacte_workers.batch.inputs import InputSpec, open_source

    source = open_source(InputSpec("dataset", f"hf:{cached}"), (1, 4, 5), class_names=[str(i) for i in range(10)])
    assert [source.read(index).label for index in source.indices] == [0, 1, 2]
    source.close()
