"""A data set of the trainer by its name: `digits`, `cifar10`, `folder:PATH`, `parquet:PATH`, ..."""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spacte_workers.images import BadImageError

from .base import InputError, Limits, Row, Source, chosen


class DatasetSource:
    """One split of a data set of `spacte_core.data`.

    Args:
        name: a source as `spacte train --data` takes it.
        root: where downloaded sets are kept.
        split: `train` or `test`.
        input_shape: (C, H, W) that the model takes.
        stride: use every so many images.
        limit: use at most so many.

    Raises:
        InputError: there is no such set, or its images are not for this model.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        split: str,
        input_shape: Sequence[int],
        *,
        stride: int = 1,
        limit: int | None = None,
    ) -> None:
        import torch

        from spacte_core.data import DataConfig, DataError, load_data

        if split not in ("train", "test"):
            raise InputError(f"There is no split {split[:40]!r}: use `train` or `test`.")
        try:
            self._data = load_data(DataConfig(source=name, root=root, loader_processes=0), split)
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
        self.indices = chosen(len(self._data), stride, limit)

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
        return Row(np.asarray(batch.x_BCHW[0]), int(batch.y_B[0]))

    def about(self, index: int) -> tuple[int | None, str | None]:  # noqa: ARG002  the protocol's argument
        """The labels come with the images."""
        return None, None

    def close(self) -> None:
        """Nothing is held open."""


def open_dataset(
    name: str,
    root: Path,
    split: str,
    input_shape: Sequence[int],
    *,
    stride: int = 1,
    limit: int | None = None,
    limits: Limits,
) -> Source:
    """One split of a data set; published parquet sets row by row, so that a damaged row costs only itself.

    Raises:
        InputError: there is no such set, or it is not for this model.
    """
    kind, _, path = name.partition(":")
    if kind == "parquet" and Path(path).is_dir():
        from spacte_core.data import DataError
        from spacte_core.data.parquet import split_files

        from .parquet import ParquetSource

        if split not in ("train", "test"):
            raise InputError(f"There is no split {split[:40]!r}: use `train` or `test`.")
        try:
            files = split_files(Path(path), split)
        except DataError as error:
            raise InputError(str(error)) from error
        return ParquetSource(files, stride=stride, limit=limit, limits=limits)
    return DatasetSource(name, root, split, input_shape, stride=stride, limit=limit)
