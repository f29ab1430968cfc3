"""A data set by its name: `digits`, `cifar10`, `folder:PATH`, `parquet:PATH`, ..."""

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from spacte_workers.images import BadImageError

from .base import InputError, InputSpec, Labels, Limits, Row, Source
from .class_numbers import class_numbers


class DatasetSource(Source):
    """One split of a data set of `spacte_core.data`.

    Raises:
        InputError: there is no such set, or its images are not for this model.
    """

    def __init__(
        self,
        spec: InputSpec,
        split: Literal["train", "test"],
        input_shape: Sequence[int],
        class_names: Sequence[str] = (),
    ) -> None:
        import torch

        from spacte_core.data import DataConfig, DataError, load_data

        name = spec.location
        config = DataConfig(source=name, root=Path(spec.data_root), label_column=spec.label_column, loader_processes=0)
        try:
            self._data = load_data(config, split)
        except DataError as error:
            raise InputError(str(error)) from error
        if self._data.skipped:
            # The set numbers its images without the unreadable ones, so indices would not be the set's own.
            names = ", ".join(self._data.skipped[:3])
            raise InputError(f"{len(self._data.skipped)} images of {name} cannot be read ({names}): replace them.")
        if tuple(self._data.input_shape) != tuple(input_shape):
            raise InputError(
                f"The images of {name} have shape {list(self._data.input_shape)}, but the model takes "
                f"{list(input_shape)}: choose another set or model."
            )
        self._cpu = torch.device("cpu")
        self._lock = threading.Lock()
        labels = Labels(class_numbers(self._data.labels_N.numpy(), self._data.class_names, class_names))
        super().__init__(len(self._data), spec, labels, len(class_names) or None)

    def paths(self, index: int | None = None) -> dict[str, Path]:  # noqa: ARG002  what is in memory stays as it is
        """None: the set was read as a whole."""
        return {}

    def _digest(self) -> str:
        """Over the pixels and labels of the chosen rows."""
        digest = hashlib.sha256()
        for index in self.indices:
            row = self.read(index)
            digest.update(np.rint(np.asarray(row.content) * 255).astype(np.uint8).tobytes())
            digest.update(f" {row.label}\n".encode())
        return digest.hexdigest()

    def read(self, index: int) -> Row:
        """One image [C, H, W], float32 in [0, 1], and its class.

        Raises:
            BadImageError: the image's file cannot be read any more.
        """
        import torch

        from spacte_core.data import DataError

        try:
            with self._lock:
                batch = next(iter(self._data.batches([torch.tensor([index])], self._cpu)))
        except (DataError, OSError) as error:
            raise BadImageError(f"Image {index} of the data set cannot be read: {error}") from error
        return Row(np.asarray(batch.x_BCHW[0]), *self.about(index))


def open_dataset(spec: InputSpec, input_shape: Sequence[int], limits: Limits, class_names: Sequence[str]) -> Source:
    """One split of a data set; files and published parquet sets row by row, so that a damaged one costs only itself.

    Raises:
        InputError: there is no such set, or it is not for this model.
    """
    if spec.split not in ("train", "test"):
        raise InputError(f"There is no split {spec.split[:40]!r}: use `train` or `test`.")
    kind, _, path = spec.location.partition(":")
    if kind in ("folder", "imagenet"):
        from .files import FilesSource

        return FilesSource(spec, spec.split, class_names)
    if kind != "hf" and (kind != "parquet" or not Path(path).is_dir()):
        return DatasetSource(spec, spec.split, input_shape, class_names)
    from spacte_core.data.hub import fetched
    from spacte_core.data.parquet import split_files
    from spacte_core.errors import UserError

    from .parquet import ParquetSource

    try:
        path = fetched(path) if kind == "hf" else path
        return ParquetSource(split_files(Path(path), spec.split, spec.label_column), spec, limits, class_names)
    except UserError as error:
        raise InputError(str(error)) from error
