"""Which columns of a published image set hold the images and the labels. No torch."""

from typing import Any

import pyarrow as pa

from .errors import DataError

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "labels", "fine_label", "target", "class")
"""What published sets call the class, in the order in which they are looked for; CIFAR-100 has no `label`."""


def image_column(schema: Any) -> str | None:
    """The column with encoded image files, plain or in the field `bytes` of a struct; None where there is none."""
    for name in IMAGE_COLUMNS:
        if name in schema.names:
            kind = schema.field(name).type
            encoded = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
            if encoded or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
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
    return wanted or next((name for name in LABEL_COLUMNS if name in schema.names), None)
