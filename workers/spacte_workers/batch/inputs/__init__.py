"""Where the images of a batch come from: npz, zip of images, parquet, or a data set by name.

An `InputSpec` says which, and travels in the job's `job.json`; `open_source` opens it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from .base import InputError, Limits, Row, Source
from .detect import kind_of
from .remote import load_driver, parts_of, pieces, scheme_of
from .roots import resolve_uri

__all__ = [
    "InputError",
    "InputSpec",
    "Limits",
    "Row",
    "Source",
    "kind_of",
    "load_driver",
    "open_source",
    "parts_of",
    "pieces",
    "resolve_uri",
    "scheme_of",
]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """An input and the rows of it to certify.

    Attributes:
        kind: `file` or `dataset`.
        location: the file's absolute path, or the data set as `spacte train --data` takes it.
        split: which part of a data set.
        stride: rows 0, stride, 2 stride, ...
        limit: at most so many rows.
        roots: folders that the file must still lie in when it is opened; none where that was not asked.
        data_root: where downloaded data sets are kept.
    """

    kind: Literal["file", "dataset"]
    location: str
    split: str = "test"
    stride: int = 1
    limit: int | None = None
    roots: tuple[str, ...] = ()
    data_root: str = "data"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self) | {"roots": list(self.roots)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "InputSpec":
        """From what `to_json` gave."""
        given: dict[str, Any] = {**value, "roots": tuple(value["roots"])}
        return cls(**given)


def open_source(spec: InputSpec, input_shape: Sequence[int], limits: Limits | None = None) -> Source:
    """Open an input for a model that takes images of `input_shape` (C, H, W).

    Raises:
        InputError: it is missing, damaged, empty, of another shape, or would unpack to too much.
    """
    limits = limits or Limits()
    if spec.kind == "dataset":
        from .dataset import open_dataset

        return open_dataset(
            spec.location,
            Path(spec.data_root),
            spec.split,
            input_shape,
            stride=spec.stride,
            limit=spec.limit,
            limits=limits,
        )
    path = Path(spec.location)
    if spec.roots:
        path = resolve_uri(spec.location, [Path(root) for root in spec.roots])
    if not path.is_file():
        raise InputError(f"There is no file {path.name[:200]!r}: check the path, or upload the file again.")
    match kind_of(path):
        case "npz":
            from .npz import NpzSource

            return NpzSource(path, input_shape, stride=spec.stride, limit=spec.limit, limits=limits)
        case "zip":
            from .archive import ZipSource

            return ZipSource(path, stride=spec.stride, limit=spec.limit, limits=limits)
        case "parquet":
            from .parquet import ParquetSource

            return ParquetSource([path], stride=spec.stride, limit=spec.limit, limits=limits)
        case _:
            raise InputError("The file is none of npz, zip of images and parquet: send one of these.")
