"""Tables beside the images of an archive that name the class of each: `labels.csv`, `metadata.csv`, `metadata.jsonl`.

The first line of a csv file names its columns; what separates them may be a comma, a semicolon or a tab. A row names an
image by its path in the archive or from the table's folder, or where only one image is called so by its name alone.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from spacte_core.columns import LABEL_COLUMNS

from .base import InputError

TABLES = ("labels.csv", "labels.tsv", "metadata.csv", "metadata.jsonl")
"""Those whose names begin with `metadata` are what hubs expect beside a folder of images."""

NAME_COLUMNS = ("name", "file_name", "filename", "file", "path", "image", "img", "image_name", "id")
"""Columns of the images' names, in small or large letters, in the order in which they are looked for."""


def table_labels(text: bytes, table: str, images: Sequence[str], wanted: str | None) -> list[str]:
    """The text of the label of each image; empty where it has none.

    Args:
        text: the table's bytes.
        table, images: paths in the archive.
        wanted: the column of the class; None looks for the usual ones.

    Raises:
        InputError: the table cannot be read, has other columns, or lacks an image.
    """
    try:
        rows = _rows(text.decode("utf-8-sig"), table)
    except (ValueError, csv.Error, RecursionError) as error:
        raise InputError(f"{table[:200]} cannot be read ({error}): write it as UTF-8, a row an image.") from error
    name, label = _columns(table, rows, wanted)
    given = {_plain(str(row.get(name) or "")): _text(row.get(label)) for row in rows}
    folder = table.removesuffix(PurePosixPath(table).name)
    calls = [_calls(image, folder) for image in images]
    alone = Counter(call for each in calls for call in set(each))
    found: list[str] = []
    for image, each in zip(images, calls, strict=True):
        called = next((call for call in each if call in given and ("/" in call or alone[call] == 1)), None)
        if called is None:
            raise InputError(f"{table[:200]} has no row for {image[:200]!r}: list every image, or leave it out.")
        found.append(given[called])
    return found


def _rows(text: str, table: str) -> list[dict[str, Any]]:
    if table.endswith(".jsonl"):
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError("a line is no JSON object")
        return rows
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    return [*csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)]


def _columns(table: str, rows: Sequence[dict[str, Any]], wanted: str | None) -> tuple[str, str]:
    """The columns of names and of labels."""
    there = [str(column) for column in (rows[0] if rows else {}) if column is not None]
    small = {column.strip().lower(): column for column in reversed(there)}
    name = next((small[column] for column in NAME_COLUMNS if column in small), None)
    label = next((small[column] for column in LABEL_COLUMNS if column in small), None)
    if wanted is not None:
        label = wanted if wanted in there else None
    if name is None or label is None or name == label:
        column = wanted or "label"
        raise InputError(
            f"{table[:200]} has the columns {', '.join(there)[:200] or 'none'} in its first row: it needs "
            f"`name` and `{column[:60]}`, with a row for each image, or the name of another column (--label-column)."
        )
    return name, label


def _plain(name: str) -> str:
    """A path as the archive writes it, whichever system wrote the table."""
    return name.strip().replace("\\", "/").removeprefix("./")


def _calls(image: str, folder: str) -> list[str]:
    """What a table may call an image: the whole path, from its own folder, the name alone, that without its ending."""
    path = PurePosixPath(_plain(image))
    beside = image.removeprefix(folder)
    return [str(path), _plain(beside), path.name, path.stem]


def _text(value: Any) -> str:
    """A label as text; tables with gaps write whole numbers as 3.0, and gaps as nothing, NaN or null."""
    text = "" if value is None else str(value).strip()
    if text.lower() in ("nan", "null", "none", "na"):
        return ""
    whole, point, rest = text.partition(".")
    return whole if point and whole.removeprefix("-").isdecimal() and not rest.strip("0") else text
