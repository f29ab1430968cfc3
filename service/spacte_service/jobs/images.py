"""The images of a job to look at: read again from its input, in the shape that the model saw."""

import io
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from spacte_service.problems import ProblemError

from .data_folder import DataFolder

if TYPE_CHECKING:
    from spacte_core.checkpoint import CheckpointConfig
    from spacte_service.decoding import Decoding
    from spacte_service.store.schema import JobRow
    from spacte_workers.batch.inputs import Row, Source
    from spacte_workers.shards import Image

INPUTS_KEPT = 1  # stays open; chosen: a page of thumbnails asks one job for many images


class JobImages:
    """Images of jobs as PNG files. Its methods block and may be called from several threads."""

    def __init__(self, decoding: "Decoding", folder: DataFolder) -> None:
        self._decoding = decoding
        self._folder = folder
        self._lock = threading.Lock()
        self._inputs: OrderedDict[str, tuple[Source, CheckpointConfig]] = OrderedDict()

    def png(self, row: "JobRow", index: int) -> bytes:
        """Image `index` of a job's input, as a PNG of the size that the model takes.

        Raises ProblemError: 404, the job has no such image or its input is gone; 400, the image cannot be read.
        """
        from spacte_core.checkpoint import CheckpointError
        from spacte_workers.batch.inputs import InputError
        from spacte_workers.images import BadImageError

        try:
            with self._lock:
                source, config = self._open(row)
                if index not in source.indices:
                    raise ProblemError("not_found", f"{row.id} has no image {index}; see its results.")
                found = source.read(index)
            return _png(self._decode(found, config))
        except (CheckpointError, InputError) as error:
            raise ProblemError("not_found", f"The images of {row.id} cannot be shown: {error}") from None
        except BadImageError as error:
            raise ProblemError("bad_image", str(error)) from None

    def close(self) -> None:
        """Close every input."""
        with self._lock:
            while self._inputs:
                self._inputs.popitem()[1][0].close()

    def _open(self, row: "JobRow") -> "tuple[Source, CheckpointConfig]":
        """A job's input, and what its model says of itself."""
        from spacte_core.checkpoint import read_config
        from spacte_workers.decoding import open_isolated

        if row.id not in self._inputs:
            self._folder.restore_job(row)
            spec = self._folder.spec(row)
            config = read_config(Path(spec.checkpoint))[0]
            while len(self._inputs) >= INPUTS_KEPT:
                self._inputs.popitem(last=False)[1][0].close()
            opened = open_isolated(spec.input, config.model.input_shape, self._decoding.inputs)
            self._inputs[row.id] = opened, config
        self._inputs.move_to_end(row.id)
        return self._inputs[row.id]

    def _decode(self, row: "Row", config: "CheckpointConfig") -> "Image":
        """The pixels that the model got, or would have got: an image that was refused is shown as well."""
        from spacte_core.preprocessing import EVERYTHING
        from spacte_workers.images import from_array

        shape = config.model.input_shape
        if not isinstance(row.content, bytes):
            return from_array(row.content, input_shape=shape)
        return self._decoding.image(row.content, input_shape=shape, stated=config.pictures, asked=EVERYTHING)


def _png(image: "Image") -> bytes:
    import numpy as np
    from PIL import Image as Pillow

    from spacte_workers.images import to_array

    pixels_CHW = to_array(image)
    if pixels_CHW.dtype != np.uint8:
        pixels_CHW = np.rint(255 * pixels_CHW).astype(np.uint8)
    buffer = io.BytesIO()
    picture = pixels_CHW[0] if len(pixels_CHW) == 1 else pixels_CHW.transpose(1, 2, 0)
    Pillow.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()
