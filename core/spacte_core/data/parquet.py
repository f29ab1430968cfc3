"""`parquet:PATH`: an `img` or `image` with the encoded file in it, and an integer column of labels.

PATH is a folder of `train-*.parquet` and `test-*.parquet` files, or of folders `train` and `test` with such files, the
layouts in which hubs publish image sets, in it, in its `data` folder or in its only other one; or one file, of which
every tenth image of each class is then held out.
Class names are taken from the file's metadata where the publisher wrote them, else the classes are called by their
numbers.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from spacte_core.columns import image_column, label_column, published_names
from spacte_core.errors import DataError
from spacte_core.hidden_names import is_hidden

from .base import DataConfig, Split
from .decode import ImageCollector
from .memory import MemoryData

PREFIXES = {"train": ("train",), "test": ("test", "val")}


def split_files(path: Path, split: Split, label_column: str | None = None) -> list[Path]:
    """The files of a split; raises DataError where there are none.

    Test files without a single label, as hubs publish those of competitions, give way to validation files.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"There is no file or folder {path}: check the path after the colon.")
    folder = _published_folder(path)
    found = [files for prefix in PREFIXES[split] if (files := _files_of(folder, prefix))]
    if not found:
        raise DataError(f"{path} holds no {PREFIXES[split][0]}-*.parquet file: name the {split} files so.")
    if len(found) > 1 and not any(_has_labels(file, label_column) for file in found[0]):
        return found[1]
    return found[0]


def load(config: DataConfig, split: Split) -> MemoryData:
    """One split, decoded."""
    path = config.path
    files = split_files(path, split, config.label_column)
    tables = [(file, *_open(file, config)) for file in files]
    class_names = _class_names(split_files(path, "train", config.label_column), config)
    collector = ImageCollector(config, str(path))
    for file, images, labels in tables:
        for row, (image, label) in enumerate(zip(images, labels, strict=True)):
            data, number = image.as_py(), label.as_py()
            data = data["bytes"] if isinstance(data, dict) else data
            if data is None:
                raise DataError(f"Row {row} of {file.name} has no image: remove the row.")
            collector.add(f"{file.name}[{row}]", data, number)
    found = collector.finish(class_names)
    return found.part(split) if path.is_file() else found


def _published_folder(path: Path) -> Path:
    """Where a hub's clone has its parquet files: PATH itself, its `data`, or its only folder with such files."""
    splits = [prefix for prefixes in PREFIXES.values() for prefix in prefixes]
    for folder in (path, path / "data"):
        if any(folder.glob("*.parquet")) or any(_files_of(folder, prefix) for prefix in splits):
            return folder
    found = [file for pattern in ("*/*.parquet", "*/*/*.parquet") for file in path.glob(pattern)]
    inside = sorted({path / file.relative_to(path).parts[0] for file in found if not is_hidden(file.relative_to(path))})
    if len(inside) > 1:
        names = ", ".join(folder.name for folder in inside[:8])
        raise DataError(f"{path} holds several sets ({names}): name the folder of one after the colon.")
    return inside[0] if inside else path


def _files_of(folder: Path, prefix: str) -> list[Path]:
    """The files of a split, by their own names or by their folder's."""
    found = [*folder.glob(f"{prefix}*.parquet"), *folder.glob(f"{prefix}*/*.parquet")]
    return sorted(file for file in found if not is_hidden(file.relative_to(folder)))


def _open(file: Path, config: DataConfig) -> tuple[Any, Any]:
    """The columns of images and of labels; raises DataError where the layout is another."""
    table = _read(file)
    images = image_column(table.schema)
    labels = label_column(table.schema, config.label_column)
    there = ", ".join(table.column_names)
    if images is None:
        raise DataError(
            f"{file} has columns {there}: it needs an img or image, a struct with the bytes of an image file."
        )
    if labels is None:
        raise DataError(f"{file} has columns {there}, and no label: name the class's with --label-column.")
    _check_labels(file, table, labels)
    return table.column(images), table.column(labels)


def _read(file: Path, columns: list[str] | None = None) -> Any:
    try:
        return pq.read_table(file, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> DataError:
    """The error for a file that is no parquet file, or what Git LFS leaves in its place."""
    with suppress(OSError), file.open("rb") as opened:
        if opened.read(40).startswith(b"version https://git-lfs"):
            return DataError(f"{file} is a pointer of Git LFS: fetch the file with `git lfs pull`.")
    first = str(error).partition("\n")[0][:200].rstrip(". ")
    return DataError(f"{file} is not a parquet file that can be read ({first}): replace it.")


def _read_labels(file: Path, wanted: str | None) -> tuple[Any, str | None]:
    """The table of the label column alone, and its name."""
    try:
        name = label_column(pq.read_schema(file), wanted)
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(file, error) from error
    return _read(file, columns=[name] if name else []), name


def _has_labels(file: Path, wanted: str | None) -> bool:
    """Whether a file has any label; hubs write -1 for a hidden one."""
    table, name = _read_labels(file, wanted)
    if name is None:
        return False
    labels = table.column(name)
    return not pa.types.is_integer(labels.type) or any((label or 0) >= 0 for label in labels.unique().to_pylist())


def _check_labels(file: Path, table: Any, name: str) -> None:
    """Raise DataError where the labels are no integers, or some are missing."""
    labels = table.column(name)
    if not pa.types.is_integer(labels.type):
        raise DataError(f"The labels in {file} are of type {labels.type}: number the classes from 0.")
    if missing := labels.null_count + sum(label is not None and label < 0 for label in labels.to_pylist()):
        raise DataError(f"{missing} rows of {file} have no label (none, or one below 0): remove them.")


def _class_names(files: list[Path], config: DataConfig) -> list[str]:
    """Names from the hub's metadata, else "0" .. "K-1" up to the largest label of the training files."""
    labels = [(file, *_read_labels(file, config.label_column)) for file in files]
    _, first, name = labels[0]
    if name is not None and (published := published_names(first.schema, name)):
        return published
    highest = -1
    for file, table, column in labels:
        if column is None:
            raise DataError(f"{file} has no label: name the class's column with --label-column.")
        _check_labels(file, table, column)
        highest = max([highest, *table.column(column).unique().to_pylist()])
    rows = sum(table.num_rows for _, table, _ in labels)
    if highest >= rows:  # a marker such as 255, or a number of something else: names up to it may fill the memory
        raise DataError(
            f"The labels in {files[0]} go up to {highest}, but {rows} images cannot show so many classes: number the "
            "classes from 0, or name another column with --label-column."
        )
    return [str(number) for number in range(highest + 1)]
