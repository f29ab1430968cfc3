"""parquet: `img` or `image` with an encoded image file, a column of labels where there is one; a few rows at a time.

A row group is decoded from its start on, never as a whole: a few kilobytes can stand for any number of copies of one
image, and a file does not say how large its rows are.
"""

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from spacte_core.columns import image_column, label_column, published_names
from spacte_core.errors import DataError
from spacte_workers.images import BadImageError

from .base import NO_LABEL, InputError, InputSpec, Labels, Limits, Row, Source
from .class_numbers import class_numbers
from .label_values import label_values

KEPT_BYTES, KEPT_CHUNKS = 32 << 20, 64
"""Decoded rows held in memory. Chosen: rows are read nearly in order, so few are asked for again later."""

CHUNK_ROWS = 64
"""Rows decoded at once. Chosen: fewer where one may be so large that this would be more than `KEPT_BYTES`."""


class _Decoded(NamedTuple):
    """Rows of a row group, from row `first` of it on."""

    group: int
    first: int
    rows: pa.RecordBatch


class ParquetSource(Source):
    """Rows of one or several parquet files, in order.

    Raises:
        InputError: a file is damaged, or has other columns.
    """

    def __init__(self, paths: Sequence[Path], spec: InputSpec, limits: Limits, class_names: Sequence[str] = ()) -> None:
        self._paths = list(paths)
        self._files = [_open(path) for path in paths]
        self._columns = [_columns(file.schema_arrow) for file in self._files]
        self._groups: list[tuple[int, int]] = []
        sizes: list[int] = []
        largest = 1
        for number, file in enumerate(self._files):
            for group in range(file.metadata.num_row_groups):
                about = file.metadata.row_group(group)
                largest = max(largest, _largest_row(about, self._columns[number]))
                self._groups.append((number, group))
                sizes.append(about.num_rows)
        self._ends = list(accumulate(sizes))
        total = self._ends[-1] if self._ends else 0
        if total > limits.images:
            raise InputError(f"The parquet file holds {total:,} rows: send at most {limits.images:,}.")
        labels = _labels(self._files, spec.label_column, class_names)
        super().__init__(total, spec, labels, len(class_names) or None)
        self._limits = limits
        self._chunk_rows = max(1, min(CHUNK_ROWS, KEPT_BYTES // min(largest, limits.member_bytes)))
        self._lock = threading.Lock()
        self._kept: deque[_Decoded] = deque(maxlen=KEPT_CHUNKS)
        self._decoding: tuple[int, Iterator[pa.RecordBatch]] | None = None
        self._next = 0  # row of that group which comes next
        self._damage: dict[int, int] = {}  # the first row of a group that cannot be decoded

    def paths(self, index: int | None = None) -> dict[str, Path]:
        """The files, or the one of a row."""
        if index is None:
            return {path.name: path for path in self._paths}
        path = self._paths[self._groups[bisect_right(self._ends, index)][0]]
        return {path.name: path}

    def read(self, index: int) -> Row:
        """One row.

        Raises:
            BadImageError: it has no image, or one too large, or its part of the file is damaged.
        MemoryError: it needs more than there is.
        """
        columns, values = self._row(index)
        if "\0" in str(values.get("custom_id")):
            raise BadImageError(f"The custom_id of row {index} has a NUL character: leave that out.")
        image = values[columns[0]]
        if isinstance(image, dict):
            image = image.get("bytes")
        if not image:
            raise BadImageError(f"Row {index} has no image: fill it or remove the row.")
        if len(image) > self._limits.member_bytes:
            raise BadImageError(
                f"The image of row {index} has {len(image):,} bytes: send at most {self._limits.member_bytes:,}."
            )
        return Row(image, *self.about(index))

    def custom_id(self, index: int) -> str | None:
        """The row's custom id, unless it or its part of the file is damaged."""
        try:
            found = self._row(index)[1].get("custom_id")
        except BadImageError:
            return None
        return None if found is None or "\0" in str(found) else str(found)

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    def _row(self, index: int) -> tuple[list[str], dict[str, Any]]:
        group = bisect_right(self._ends, index)
        at = index - (self._ends[group - 1] if group else 0)
        with self._lock:
            found = self._find(group, at) or self._decode(group, at)
        if found is None:
            raise BadImageError(f"Row {index} lies in a damaged part of the parquet file: write it anew.")
        columns = self._columns[self._groups[group][0]]
        try:
            return columns, {name: found.rows.column(name)[at - found.first].as_py() for name in columns}
        except UnicodeDecodeError:
            raise BadImageError(f"A text in row {index} is not UTF-8: write it anew.") from None

    def _find(self, group: int, at: int) -> _Decoded | None:
        """The rows that are held with row `at` of a group among them."""
        held = (kept for kept in self._kept if kept.group == group)
        return next((kept for kept in held if kept.first <= at < kept.first + kept.rows.num_rows), None)

    def _decode(self, group: int, at: int) -> _Decoded | None:
        """Go on to row `at` of a group, from its start where that lies behind; None where it is damaged."""
        if at >= self._damage.get(group, at + 1):
            return None
        if self._decoding is None or self._decoding[0] != group or at < self._next:
            file, number = self._groups[group]
            chunks = self._files[file].iter_batches(self._chunk_rows, row_groups=[number], columns=self._columns[file])
            self._decoding, self._next = (group, chunks), 0
        while True:
            try:
                rows = next(self._decoding[1], None)
            except MemoryError:
                self._kept.clear()
                self._decoding = None
                raise
            except (pa.ArrowException, OSError):
                rows = None
            if not rows:
                self._decoding, self._damage[group] = None, self._next
                return None
            self._kept.append(_Decoded(group, self._next, rows))
            self._next += rows.num_rows
            while len(self._kept) > 1 and sum(kept.rows.nbytes for kept in self._kept) > KEPT_BYTES:
                self._kept.popleft()
            if at < self._next:
                return self._kept[-1]


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError("The parquet file is damaged: write it anew.") from error


def _largest_row(group: Any, columns: Sequence[str]) -> int:
    """Bytes that one row of a group may have, as far as the file says: all of them, where many rows share a value."""
    chunks = [group.column(number) for number in range(group.num_columns)]
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns)


def _columns(schema: Any) -> list[str]:
    """The columns that are read row by row, the image first."""
    image = image_column(schema)
    if image is None:
        there = ", ".join(schema.names)[:200] or "none"
        raise InputError(
            f"The parquet file has columns {there}: it needs `img` or `image`, a struct with the `bytes` of "
            "an image file, and `label`."
        )
    return [image, "custom_id"] if "custom_id" in schema.names else [image]


def _labels(files: Sequence[pq.ParquetFile], wanted: str | None, class_names: Sequence[str]) -> Labels:
    """The labels of all rows of the files, whose columns are those of the first."""
    schema = files[0].schema_arrow
    try:
        name = label_column(schema, wanted)
    except DataError as error:
        raise InputError(str(error)) from error
    if name is None:
        there = ", ".join(schema.names)[:200]
        return Labels(
            missing=f"No column `label` was found among {there}, so no accuracy is measured: name it (--label-column)."
        )
    parts = [
        _group_labels(file, group, name, class_names) for file in files for group in range(file.metadata.num_row_groups)
    ]
    labels_N = np.concatenate(parts) if parts else np.empty(0, np.int64)
    return Labels(class_numbers(labels_N, published_names(schema, name), class_names))


def _group_labels(file: pq.ParquetFile, group: int, name: str, class_names: Sequence[str]) -> NDArray[np.int64]:
    """The labels of one row group; where it is damaged it has none."""
    try:
        column = file.read_row_group(group, columns=[name]).column(name)
    except MemoryError:
        raise
    except (pa.ArrowException, OSError):
        return np.full(file.metadata.row_group(group).num_rows, NO_LABEL)
    return label_values(column.to_pylist(), class_names, f"The parquet file's values of `{name}`")
