"""What a decoding process does: pictures to pixels, and rows of an input. Runs in the child."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from spacte_core.preprocessing import Asked, Preprocessing
from spacte_workers.batch.inputs import InputError, InputSpec, Limits, Source, kind_of, open_source
from spacte_workers.images import decode_image

Result = tuple[dict[str, Any], bytes]
"""Fields for JSON, and bytes."""


class Tasks:
    """Each method is a task; at most one input is open."""

    def __init__(self) -> None:
        Pillow.preinit()
        self._source: Source | None = None

    def image(
        self,
        data: bytes,
        input_shape: tuple[int, ...],
        stated: Preprocessing | None,
        asked: Asked | None,
        max_pixels: int,
    ) -> Result:
        """Pixels of an image file. Raises as `decode_image`."""
        found = decode_image(data, input_shape=input_shape, stated=stated, asked=asked, max_pixels=max_pixels)
        steps = found.steps and asdict(found.steps)
        return {"shape": found.shape, "dtype": found.dtype, "steps": steps}, found.data

    def kind(self, path: str) -> Result:
        """What a file is."""
        return {"kind": kind_of(Path(path))}, b""

    def open(
        self, spec: InputSpec, input_shape: tuple[int, ...], limits: Limits, class_names: tuple[str, ...]
    ) -> Result:
        """Open an input for the tasks below. Raises as `open_source`."""
        self.close()
        source = self._source = open_source(spec, input_shape, limits, class_names=class_names)
        return {"total": source.total, "remark": source.remark}, b""

    def close(self) -> Result:
        """Close the input."""
        if self._source is not None:
            self._source.close()
            self._source = None
        return {}, b""

    def read(self, index: int) -> Result:
        """One row of the open input. Raises BadImageError."""
        row = self._opened().read(index)
        about = {"label": row.label, "custom_id": row.custom_id}
        if isinstance(row.content, bytes):
            return about, row.content
        pixels = np.ascontiguousarray(row.content)
        return about | {"shape": pixels.shape, "dtype": pixels.dtype.str}, pixels.tobytes()

    def about(self, index: int) -> Result:
        """Label and custom id of one row."""
        label, custom_id = self._opened().about(index)
        return {"label": label, "custom_id": custom_id}, b""

    def _opened(self) -> Source:
        if self._source is None:
            raise InputError("No input is open: open one first.")
        return self._source
