"""`parquet:PATH`: an `img` or `image` struct with the encoded file in `bytes`, and an integer `label`.

PATH is a folder of `train-*.parquet` and `test-*.parquet` files, the layout in which hubs publish image sets,
or one file, of which every tenth image of each class is then held out. Class names are taken from the file's
metadata where the publisher wrote them, else the classes are called by their numbers.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .base import DataConfig, DataError, Split
from .decode import ImageCollector
from .memory import MemoryData

IMAGE_COLUMNS = ("img", "image")
PREFIXES = {"train": ("train",), "test": ("test", "val")}


def split_files(path: Path, split: Split) -> list[Path]:
    """The files of a split; raises DataError where there are none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"There is no file or folder {path}: check the path after the colon.")
    for prefix in PREFIXES[split]:
        files = sorted(path.glob(f"{prefix}*.parquet"))
        if files:
            return files
    raise DataError(f"{path} holds no {PREFIXES[split][0]}-*.parquet file: name the {split} files so.")


def load(config: DataConfig, split: Split) -> MemoryData:
    """One split, decoded."""
    path = config.path
    files = split_files(path, split)
    tables = [(file, *_open(file)) for file in files]
    class_names = _class_names(split_files(path, "train"))
    collector = ImageCollector(config, str(path))
    for file, table, image_column in tables:
        for row, (image, label) in enumerate(zip(table.column(image_column), table.column("label"), strict=True)):
            data, number = image.as_py(), label.as_py()
            if data is None or data["bytes"] is None:
                raise DataError(f"Row {row} of {file.name} has no image: remove the row.")
            collector.add(f"{file.name}[{row}]", data["bytes"], number)
    found = collector.finish(class_names)
    return found.part(split) if path.is_file() else found


def _open(file: Path) -> tuple[Any, str]:
    """The table and the name of its image column; raises DataError where the layout is another."""
    table = _read(file)
    for column in IMAGE_COLUMNS:
        if column in table.column_names and "label" in table.column_names:
            kind = table.schema.field(column).type
            if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
                _check_labels(file, table)
                return table.select([column, "label"]), column
    raise DataError(
        f"{file} has columns {', '.join(table.column_names)}: "
        "it needs an img or image struct with a bytes field, and a label."
    )


def _read(file: Path, columns: list[str] | None = None) -> Any:
    try:
        return pq.read_table(file, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file} is not a parquet file that can be read ({error}): replace it.") from error


def _check_labels(file: Path, table: Any) -> None:
    """Raise DataError where the labels are no integers, or some are missing."""
    labels = table.column("label")
    if not pa.types.is_integer(labels.type):
        raise DataError(f"The labels in {file} are of type {labels.type}: number the classes from 0.")
    if labels.null_count:
        raise DataError(f"{labels.null_count} rows of {file} have no label: remove them.")


def _class_names(files: list[Path]) -> list[str]:
    """Names from the hub's metadata, else "0" .. "K-1" up to the largest label of the training files."""
    labels = [_read(file, columns=["label"]) for file in files]
    metadata = labels[0].schema.metadata or {}
    if b"huggingface" in metadata:
        names = json.loads(metadata[b"huggingface"])["info"]["features"]["label"].get("names")
        if names:
            return names
    for file, table in zip(files, labels, strict=True):
        _check_labels(file, table)
    highest = max((number for table in labels for number in table.column("label").to_pylist()), default=-1)
    return [str(number) for number in range(highest + 1)]
