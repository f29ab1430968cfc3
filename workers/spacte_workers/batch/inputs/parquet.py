"""parquet: `img` or `image` with an encoded image file, `label` where there is one; a row group at a time."""

import threading
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from spacte_workers.images import BadImageError

from .base import InputError, Limits, Row, chosen

IMAGE_COLUMNS = ("img", "image")
KEPT_GROUPS = 2
"""Row groups held in memory: rows are read nearly in order, from one group or the next."""


class ParquetSource:
    """Rows of one or several parquet files, in order.

    Args:
        paths: the files.
        stride: use every so many rows.
        limit: use at most so many.
        limits: what the files may cost.

    Raises:
        InputError: a file is damaged, or has other columns.
    """

    def __init__(
        self, paths: Sequence[Path], *, stride: int = 1, limit: int | None = None, limits: Limits
    ) -> None:
        self._files = [_open(path) for path in paths]
        self._columns = [_columns(file.schema_arrow) for file in self._files]
        self._groups: list[tuple[int, int]] = []
        sizes: list[int] = []
        for number, file in enumerate(self._files):
            for group in range(file.metadata.num_row_groups):
                about = file.metadata.row_group(group)
                if about.total_byte_size > limits.unpacked_bytes:
                    raise InputError(
                        "A row group of the parquet file is too large: write it with smaller row groups."
                    )
                self._groups.append((number, group))
                sizes.append(about.num_rows)
        self._ends = list(accumulate(sizes))
        total = self._ends[-1] if self._ends else 0
        if total > limits.images:
            raise InputError(f"The parquet file holds {total:,} rows: send at most {limits.images:,}.")
        self.indices = chosen(total, stride, limit)
        self._lock = threading.Lock()
        self._held: dict[int, pa.Table] = {}

    def read(self, index: int) -> Row:
        """One row.

        Raises:
            BadImageError: it has no image, or its part of the file is damaged.
        """
        columns, values = self._row(index)
        image = values[columns[0]]
        if isinstance(image, dict):
            image = image.get("bytes")
        if not image:
            raise BadImageError(f"Row {index} has no image: fill it or remove the row.")
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
        file, number = self._groups[group]
        columns = self._columns[file]
        with self._lock:
            table = self._held.get(group)
            if table is None:
                try:
                    table = self._files[file].read_row_group(number, columns=columns)
                except (pa.ArrowException, OSError) as error:
                    raise BadImageError(
                        f"Row {index} lies in a damaged part of the parquet file: write it anew."
                    ) from error
                self._held[group] = table
                while len(self._held) > KEPT_GROUPS:
                    del self._held[next(iter(self._held))]
        at = index - (self._ends[group - 1] if group else 0)
        return columns, {name: table.column(name)[at].as_py() for name in columns}


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError("The parquet file is damaged: write it anew.") from error


def _columns(schema: Any) -> list[str]:
    """The columns used, the image first."""
    names = set(schema.names)
    for name in IMAGE_COLUMNS:
        if name in names:
            kind = schema.field(name).type
            encoded = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
            if encoded or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                if "label" in names and not pa.types.is_integer(schema.field("label").type):
                    raise InputError(
                        "The parquet file's `label` is no whole number: number the classes from 0."
                    )
                return [name, *(other for other in ("label", "custom_id") if other in names)]
    there = ", ".join(schema.names)[:200] or "none"
    raise InputError(
        f"The parquet file has columns {there}: it needs `img` or `image`, a struct with the `bytes` of "
        "an image file, and `label`."
    )


def _about(values: dict[str, Any]) -> tuple[int | None, str | None]:
    label, custom_id = values.get("label"), values.get("custom_id")
    return (None if label is None else int(label)), (None if custom_id is None else str(custom_id))
