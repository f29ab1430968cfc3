"""An uploaded input whose file is opened and read in a decoding process."""

import math
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError

from spacte_workers.batch.inputs import InputError, InputSpec, Limits, Row, Source, file_of, open_source, pinned
from spacte_workers.batch.inputs.base import Labels
from spacte_workers.images import BadImageError

from .decoders import Decoders
from .process import Answer, DecoderLostError

OPENING_S, ROW_S = 120.0, 30.0
"""Time for opening an input, and for reading one row. Chosen: an npz of 2 GB is unpacked in half a minute."""

PIXEL_BYTES = 8  # of float64, the largest type of pixels
MEMORY = "MemoryError"


class _Opened(BaseModel, strict=True):
    """What is said of an open input."""

    total: int
    remark: str


class _About(BaseModel, strict=True):
    """What is said of a row; shape and type where its content is an array."""

    label: int | None
    custom_id: str | None
    shape: list[int] | None = None
    dtype: str | None = None


class IsolatedSource(Source):
    """A file of rows. It takes one of the `decoders` for as long as it is open, and the next one where that is lost.

    Raises:
        InputError: as `open_source`, or memory or time do not suffice.
    """

    def __init__(
        self,
        decoders: Decoders,
        spec: InputSpec,
        input_shape: Sequence[int],
        limits: Limits | None = None,
        class_names: Sequence[str] = (),
    ) -> None:
        self._path = file_of(spec)
        self._decoders, self._limits = decoders, limits or Limits()
        self._opening = replace(spec, sha256=None), tuple(input_shape), self._limits, tuple(class_names)
        self._row_bytes = max(self._limits.member_bytes, PIXEL_BYTES * math.prod(input_shape))
        self._lock = threading.Lock()
        self._process = decoders.take()
        try:
            found = self._open()
            super().__init__(found.total, spec, Labels(missing=found.remark), None)
        except BaseException:
            decoders.give_back(self._process)
            raise

    def paths(self, index: int | None = None) -> dict[str, Path]:  # noqa: ARG002  all rows are in one file
        """The file."""
        return {self._path.name: self._path}

    def read(self, index: int) -> Row:
        """One row.

        Raises:
            BadImageError: it cannot be read, or not within memory and time.
        """
        try:
            fields, data = self._of_row("read", index, self._row_bytes)
            if "error" in fields:
                raise BadImageError(_row_sentence(fields, index))
            about = _About.model_validate({name: value for name, value in fields.items() if name != "bytes"})
            content: Any = data
            if about.dtype is not None and about.shape is not None:
                content = np.frombuffer(data, np.dtype(about.dtype)).reshape(about.shape)
        except DecoderLostError:
            limit = f"{ROW_S:g} s and {self._decoders.memory_bytes >> 20:,} MiB"
            raise BadImageError(f"Row {index} cannot be read within {limit}: write it anew, smaller.") from None
        except (ValidationError, ValueError, TypeError) as error:
            if isinstance(error, BadImageError):
                raise
            raise BadImageError(f"Row {index} is damaged: write the file anew.") from error
        return Row(content, about.label, about.custom_id)

    def about(self, index: int) -> tuple[int | None, str | None]:
        """The true class and the custom id of a row; none where that cannot be read either."""
        try:
            fields, _ = self._of_row("about", index, 0)
            about = _About.model_validate({name: value for name, value in fields.items() if name != "bytes"})
        except (DecoderLostError, ValidationError):
            return None, None
        return about.label, about.custom_id

    def close(self) -> None:
        """Close the file, and let others use the process."""
        with self._lock:
            try:
                self._process.call("close", seconds=ROW_S, most_bytes=0)
            except DecoderLostError:
                pass
            finally:
                self._decoders.give_back(self._process)

    def _open(self) -> _Opened:
        try:
            fields, _ = self._process.call("open", *self._opening, seconds=OPENING_S, most_bytes=0)
        except DecoderLostError:
            raise self._too_much() from None
        if fields.get("error") == MEMORY:
            raise self._too_much()
        if "error" in fields:
            raise InputError(str(fields["detail"]))
        try:
            return _Opened(total=fields["total"], remark=fields["remark"])
        except (KeyError, ValidationError) as error:
            raise InputError("The file is damaged: write it anew.") from error

    def _too_much(self) -> InputError:
        limit = f"{OPENING_S:g} s and {self._decoders.memory_bytes >> 20:,} MiB"
        return InputError(f"The file cannot be opened within {limit}: split it over several jobs.")

    def _of_row(self, task: str, index: int, most_bytes: int) -> Answer:
        """Do a task about a row, in a new process where the last one was lost. Raises DecoderLostError."""
        with self._lock:
            if self._process.ended:
                try:
                    self._process = self._decoders.replacement()
                    self._open()
                except (InputError, OSError) as error:
                    raise DecoderLostError(str(error)) from None
            return self._process.call(task, index, seconds=ROW_S, most_bytes=most_bytes)


def open_isolated(
    spec: InputSpec, input_shape: Sequence[int], decoders: Decoders, *, class_names: Sequence[str] = ()
) -> Source:
    """As `open_source`, with the files of users in a decoding process; data sets are the operator's own.

    Raises:
        InputError: as `open_source`, or memory or time do not suffice.
    """
    if spec.kind == "dataset":
        return open_source(spec, input_shape, class_names=class_names)
    return pinned(IsolatedSource(decoders, spec, input_shape, class_names=class_names), spec)


def _row_sentence(fields: dict[str, Any], index: int) -> str:
    if fields["error"] == MEMORY:
        return f"Row {index} needs more memory than there is here for one: write it anew, smaller."
    return str(fields["detail"])
