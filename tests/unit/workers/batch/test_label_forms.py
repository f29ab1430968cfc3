"""Promises: true classes are found however people write them, and what cannot be one is refused in a sentence."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from spacte_workers.batch.inputs import InputError, InputSpec, open_source

SHAPE = (1, 5, 4)
NUMBERS = tuple(str(number) for number in range(10))
WORDS = ("one", "two", "zero")
PICTURES = np.random.default_rng(0).integers(0, 256, (4, *SHAPE), dtype=np.uint8)


def picture(number: int, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PICTURES[number, 0]).save(buffer, format=form)
    return buffer.getvalue()


def labels_of(path: Path, class_names: tuple[str, ...] = NUMBERS) -> list[int | None]:
    """The true class of each row."""
    source = open_source(InputSpec("file", str(path)), SHAPE, class_names=class_names)
    found = [source.read(index).label for index in source.indices]
    source.close()
    return found


@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i4", "u4", "u8", "f4", ">f8"])
def test_labels_of_npz_are_of_any_type(tmp_path: Path, dtype: str) -> None:
    np.savez(tmp_path / "set.npz", images=PICTURES, labels=np.array([3, 0, 9, 1], dtype))
    assert labels_of(tmp_path / "set.npz") == [3, 0, 9, 1]
    np.savez(tmp_path / "set.npz", images=PICTURES, labels=np.array([3, 0, 99, 1], dtype))
    with pytest.raises(InputError, match="Row 2 has label 99"):
        labels_of(tmp_path / "set.npz")


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("image", "label"),
        ("x_test", "y_test"),
        ("test_images", "test_labels"),
        ("X", "y"),
        ("data", "target"),
        ("arr_0", "arr_1"),
    ],
)
def test_arrays_of_npz_are_called_as_in_use(tmp_path: Path, images: str, labels: str) -> None:
    others = {
        "x_train": PICTURES[:1],
        "y_train": np.zeros(1),
        "train_images": PICTURES[:1],
        "train_labels": np.zeros(1),
    }
    np.savez(tmp_path / "set.npz", **{images: PICTURES, labels: np.arange(4)[:, None]}, **others)
    assert labels_of(tmp_path / "set.npz") == [0, 1, 2, 3]


COLUMNS: list[tuple[Any, list[int | None]]] = [
    (pa.array([3, 0, 9, 1], pa.uint8()), [3, 0, 9, 1]),
    (pa.array([3, None, 9, 1], pa.uint64()), [3, None, 9, 1]),
    (pa.array([3.0, None, float("nan"), 1.0]), [3, None, None, 1]),
    (pa.array([True, False, True, None]), [1, 0, 1, None]),
    (pa.array(["3", "0", None, "1"]).dictionary_encode(), [3, 0, None, 1]),
    (pa.array([None, None, None, None]), [None] * 4),
    (pa.array(["", "0", " ", "1"]), [None, 0, None, 1]),
]


@pytest.mark.parametrize(("column", "expected"), COLUMNS, ids=lambda value: str(getattr(value, "type", "")))
def test_labels_of_parquet_are_of_any_type(tmp_path: Path, column: Any, expected: list[int | None]) -> None:
    pq.write_table(pa.table({"image": [picture(i) for i in range(4)], "label": column}), tmp_path / "set")
    assert labels_of(tmp_path / "set") == expected


@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        (pa.array([0.5, 1, 2, 3]), r"no whole numbers \(0.5, say\)"),
        (pa.array([[1], [2], [3], [4]]), r"no whole numbers \(\[1\], say\)"),
        (pa.array(["cat"] * 4), "name the class 'cat', which the model has not"),
        (pa.array([1, 2, 3, 2**64 - 1], pa.uint64()), "but the model has the classes 0 to 9"),
    ],
)
def test_what_is_no_class_is_refused(tmp_path: Path, column: Any, sentence: str) -> None:
    pq.write_table(pa.table({"image": [picture(i) for i in range(4)], "label": column}), tmp_path / "set")
    with pytest.raises(InputError, match=sentence):
        labels_of(tmp_path / "set")


@pytest.mark.parametrize(("image", "label"), [("Image", "Label"), ("jpg", "cls"), ("IMG", "fine_label"), ("webp", "y")])
def test_columns_of_parquet_are_called_as_in_use(tmp_path: Path, image: str, label: str) -> None:
    table = {image: [picture(i) for i in range(4)], "coarse_label": [0] * 4, label: [0, 1, 2, 3]}
    pq.write_table(pa.table(table), tmp_path / "set")
    assert labels_of(tmp_path / "set") == [0, 1, 2, 3]


def published(path: Path, names: list[str], labels: list[int]) -> Path:
    """A parquet file whose metadata names the classes, as hubs write it."""
    about = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    table = pa.table({"image": [picture(i % 4) for i in range(len(labels))], "label": labels})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(about)}), path / "set")
    return path / "set"


def test_a_hub_s_numbers_are_the_model_s_where_both_name_the_same_classes(tmp_path: Path) -> None:
    path = published(tmp_path, ["zero", "one", "two"], [0, 1, 2, -1])
    assert labels_of(path, WORDS) == [2, 0, 1, None]


def test_names_that_are_others_or_too_few_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="The set has 2 classes"):
        labels_of(published(tmp_path, ["cat", "dog"], [0, 1]), WORDS)
    with pytest.raises(InputError, match="also the label 2"):
        labels_of(published(tmp_path, ["zero", "one"], [0, 2]), WORDS)


ROWS = [("a.png", "3"), ("b.png", "0"), ("c.png", "9"), ("d.png", "")]
TABLES = {
    "labels.csv": "name,label\n" + "".join(f"{name},{label}\n" for name, label in ROWS),
    "metadata.csv": "file_name;Label\r\n" + "".join(f'"./{name}";{label}\r\n' for name, label in ROWS),
    "labels.tsv": "IMAGE\tclass\n" + "".join(f"{name[:-4]}\t{label}\n" for name, label in ROWS),
    "set/labels.csv": "\ufeffpath, target\n"
    + "".join(f"photos\\{name}, {label and label + '.0'}\n" for name, label in ROWS),
    "metadata.jsonl": "".join(
        json.dumps({"file_name": name, "label": int(label) if label else None}) + "\n" for name, label in ROWS
    ),
}


@pytest.mark.parametrize("table", TABLES)
def test_tables_in_archives_are_written_in_many_ways(tmp_path: Path, table: str) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr(table, TABLES[table])
        for number, (name, _) in enumerate(ROWS):
            archive.writestr(f"set/photos/{name}", picture(number))
    assert labels_of(tmp_path / "set.zip") == [3, 0, 9, None]


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("a.png,3\nb.png,0\n", "has the columns a.png, 3 in its first row: it needs `name` and `label`"),
        ("name,label\na.png,3\n", "has no row for 'other/b.png'"),
        ("name,label\na.png,3\nb.png,44\n", "has label 44"),
        (b"\xff\xfen\0", "write it as UTF-8"),
        ("name,kind\na.png,3\n", "has the columns name, kind .*the name of another column .--label-column."),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path: Path, table: str | bytes, sentence: str) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("labels.csv", table)
        archive.writestr("a.png", picture(0))
        archive.writestr("other/b.png", picture(1))
    with pytest.raises(InputError, match=sentence):
        labels_of(tmp_path / "set.zip")


def test_a_name_alone_counts_only_where_it_is_one_image_s(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("labels.csv", "name,label\na.png,3\n")
        archive.writestr("left/a.png", picture(0))
        archive.writestr("right/a.png", picture(1))
    with pytest.raises(InputError, match=r"no row for 'left/a\.png'"):
        labels_of(tmp_path / "set.zip")


def test_bitmaps_in_archives_are_images_too(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("7/a.bmp", picture(0, "BMP"))
        archive.writestr("2/b.PPM", picture(1, "PPM"))
    assert labels_of(tmp_path / "set.zip") == [2, 7]


def test_a_table_of_nested_json_is_one_sentence(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("metadata.jsonl", "[" * 100_000)
        archive.writestr("a.png", picture(0))
    with pytest.raises(InputError, match=r"cannot be read .*write it as UTF-8"):
        labels_of(tmp_path / "set.zip")


def test_an_array_of_labels_by_another_name_is_to_be_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=PICTURES, fine_labels=np.arange(4))
    source = open_source(InputSpec("file", str(tmp_path / "set.npz")), SHAPE, class_names=NUMBERS)
    assert source.remark.endswith(
        "(it holds fine_labels, images), so no accuracy is measured: name it (--label-column)."
    )
