"""The images of a batch job: npz, zip of images, parquet, or a data set by name.

An `InputSpec` says which, and travels in the job's `job.json`; `open_source` opens it.
"""

from collections.abc import Sequence
from pathlib import Path

from .allowed_uris import load_driver, parts_of, pieces, resolve_uri, scheme_of
from .base import InputError, InputSpec, Limits, MissingInputError, Row, Source
from .detect import Kind, kind_of

__all__ = [
    "InputError",
    "InputSpec",
    "Kind",
    "Limits",
    "MissingInputError",
    "Row",
    "Source",
    "file_of",
    "kind_of",
    "load_driver",
    "open_source",
    "parts_of",
    "pieces",
    "pinned",
    "resolve_uri",
    "scheme_of",
]


def open_source(
    spec: InputSpec, input_shape: Sequence[int], limits: Limits | None = None, *, class_names: Sequence[str] = ()
) -> Source:
    """Open an input for a model that takes images of `input_shape` (C, H, W) and has classes of these names.

    Without `class_names` labels are not looked at. An input whose `sha256` is known is hashed.

    Raises:
        InputError: it is missing, damaged, empty, of another shape, another one than was pinned, has labels of another
            model, or would unpack to too much.
    """
    return pinned(_open(spec, input_shape, limits or Limits(), class_names), spec)


def pinned(source: Source, spec: InputSpec) -> Source:
    """The source, hashed where its `sha256` is known. Raises InputError: it is another one; it is closed then."""
    if spec.sha256 is not None:
        try:
            source.pin(spec.sha256)
        except InputError:
            source.close()
            raise
    return source


def _open(spec: InputSpec, input_shape: Sequence[int], limits: Limits, class_names: Sequence[str]) -> Source:
    if spec.kind == "dataset":
        from .dataset import open_dataset

        return open_dataset(spec, input_shape, limits, class_names)
    path = file_of(spec)
    match kind_of(path):
        case "npz":
            from .npz import NpzSource

            return NpzSource(path, spec, input_shape, limits, class_names)
        case "zip":
            from .archive import ZipSource

            return ZipSource(path, spec, limits, class_names)
        case "parquet":
            from .parquet import ParquetSource

            return ParquetSource([path], spec, limits, class_names)
        case _:
            raise InputError("The file is none of npz, zip of images and parquet: send one of these.")


def file_of(spec: InputSpec) -> Path:
    """The file of an input of kind `file`; raises InputError where it is not there, or not where it may lie."""
    path = Path(spec.location)
    if spec.roots:
        path = resolve_uri(spec.location, [Path(root) for root in spec.roots])
    if not path.is_file():
        raise InputError(f"There is no file {path.name[:200]!r}: check the path, or upload the file again.")
    return path
