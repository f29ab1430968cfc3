"""Which columns of a published image set hold the images and the labels. No torch."""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from .errors import DataError

IMAGE_COLUMNS = ("img", "image", "jpg", "jpeg", "png", "webp")
LABEL_COLUMNS = ("label", "labels", "fine_label", "target", "targets", "class", "cls", "y")
"""What published sets call image and class, in small or large letters, in the order in which they are looked for.

CIFAR-100 has no `label`; sets that were archives for WebDataset are called after the files' endings.
"""


def image_column(schema: Any) -> str | None:
    """The column with encoded image files, plain or in the field `bytes` of a struct; None where there is none."""
    for name in _called(schema, IMAGE_COLUMNS):
        kind = schema.field(name).type
        encoded = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        if encoded or pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
            return name
    return None


def label_column(schema: Any, wanted: str | None) -> str | None:
    """The column of the true class; None where none is named and none is called as such columns usually are.

    Raises:
        DataError: the one that is named is not there.
    """
    if wanted is not None and wanted not in schema.names:
        there = ", ".join(schema.names)[:200]
        raise DataError(f"There is no column {wanted[:60]!r} among {there}: name one of them with --label-column.")
    return wanted or next(iter(_called(schema, LABEL_COLUMNS)), None)


def published_names(schema: Any, column: str) -> list[str]:
    """The classes as a hub's metadata names them, by their numbers; empty where it does not."""
    metadata = schema.metadata or {}
    try:
        feature = json.loads(metadata[b"huggingface"])["info"]["features"][column]
        return [str(name) for name in feature["names"]]
    except (KeyError, TypeError, ValueError):
        return []


def _called(schema: Any, usual: Sequence[str]) -> list[str]:
    """The columns of usual names; one that is written so goes before one in other letters."""
    exact = [name for name in usual if name in schema.names]
    return exact + [column for name in usual for column in schema.names if column.lower() == name and column != name]
