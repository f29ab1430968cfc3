"""parquet: `img` or `image` with an encoded image file, `label` where there is one; a few rows at a time.

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

import pyarrow as pa
import pyarrow.parquet as pq

from spacte_workers.images import BadImageError

from .base import InputError, InputSpec, Limits, Row, Source

IMAGE_COLUMNS = ("img", "image")
KEPT_BYTES, KEPT_CHUNKS = 256 << 20, 64
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

    def __init__(self, paths: Sequence[Path], spec: InputSpec, limits: Limits) -> None:
        self._files = [_open(path) for path in paths]
        self._columns = [_columns(file.schema_arrow) for file in self._files]
        self._groups: list[tuple[int, int]] = []
        sizes: list[int] = []
        largest = 1
        for number, file in enumerate(self._files):
            for group in range(file.metadata.num_row_groups):
                about = file.metadata.row_group(group)
                largest = max(largest, _image_bytes(about, self._columns[number][0], limits))
                self._groups.append((number, group))
                sizes.append(about.num_rows)
        self._ends = list(accumulate(sizes))
        total = self._ends[-1] if self._ends else 0
        if total > limits.images:
            raise InputError(f"The parquet file holds {total:,} rows: send at most {limits.images:,}.")
        super().__init__(total, spec)
        self._limits = limits
        self._chunk_rows = max(1, min(CHUNK_ROWS, KEPT_BYTES // min(largest, limits.member_bytes)))
        self._lock = threading.Lock()
        self._kept: deque[_Decoded] = deque(maxlen=KEPT_CHUNKS)
        self._decoding: tuple[int, Iterator[pa.RecordBatch]] | None = None
        self._next = 0  # row of that group which comes next
        self._damage: dict[int, int] = {}  # the first row of a group that cannot be decoded

    def read(self, index: int) -> Row:
        """One row.

        Raises:
            BadImageError: it has no image, or one too large, or its part of the file is damaged.
        """
        columns, values = self._row(index)
        image = values[columns[0]]
        if isinstance(image, dict):
            image = image.get("bytes")
        if not image:
            raise BadImageError(f"Row {index} has no image: fill it or remove the row.")
        if len(image) > self._limits.member_bytes:
            raise BadImageError(
                f"The image of row {index} has {len(image):,} bytes: send at most {self._limits.member_bytes:,}."
            )
        return Row(image, *_about(values))

    def about(self, index: int) -> tuple[int | None, str | None]:
        """The row's true class and custom id, unless its part of the file is damaged."""
        try:
            return _about(self._row(index)[1])
        except BadImageError:
            return None, None

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
        return columns, {name: found.rows.column(name)[at - found.first].as_py() for name in columns}

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


def _image_bytes(group: Any, column: str, limits: Limits) -> int:
    """Bytes of a row group's images once they are unpacked, as far as the file says.

    Raises:
        InputError: too much for what lies in the file.
    """
    chunks = [group.column(number) for number in range(group.num_columns)]
    images = [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] == column]
    unpacked = sum(chunk.total_uncompressed_size for chunk in images)
    packed = sum(chunk.total_compressed_size for chunk in images)
    if unpacked > limits.ratio_floor and unpacked > limits.ratio * packed:
        raise InputError(
            f"`{column}` of the parquet file unpacks to more than {limits.ratio} times its size: write encoded "
            "images, uncompressed."
        )
    return unpacked


def _columns(schema: Any) -> list[str]:
    """The columns used, the image first."""
    names = set(schema.names)
    for name in IMAGE_COLUMNS:
        if name in names:
            kind = schema.field(name).type
            encoded = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
            if encoded or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                if "label" in names and not pa.types.is_integer(schema.field("label").type):
                    raise InputError("The parquet file's `label` is no whole number: number the classes from 0.")
                return [name, *(other for other in ("label", "custom_id") if other in names)]
    there = ", ".join(schema.names)[:200] or "none"
    raise InputError(
        f"The parquet file has columns {there}: it needs `img` or `image`, a struct with the `bytes` of "
        "an image file, and `label`."
    )


def _about(values: dict[str, Any]) -> tuple[int | None, str | None]:
    label, custom_id = values.get("label"), values.get("custom_id")
    return (None if label is None else int(label)), (None if custom_id is None else str(custom_id))
