"""Image files in one folder a class, or in ImageNet's layout: each is read when its turn comes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from spacte_core.data import DataConfig, DataError
from spacte_core.data.base import hold_out
from spacte_core.data.folder import class_files, class_names_of, split_folder
from spacte_workers.images import BadImageError

from .base import InputError, InputSpec, Labels, Row, Source
from .class_numbers import class_numbers


class FilesSource(Source):
    """One split of a folder of images; an image that cannot be read costs only itself.

    Raises:
        InputError: there is no such folder, or its classes are not the model's.
    """

    def __init__(self, spec: InputSpec, split: Literal["train", "test"], class_names: Sequence[str] = ()) -> None:
        try:
            path = DataConfig(source=spec.location).path
            own = split_folder(path, split)
            names = class_names_of(path)
            found = class_files(own or path)
            files = [(file, names.index(name)) for name, paths in found.items() if name in names for file in paths]
            if own is None:
                kept = hold_out(torch.tensor([label for _, label in files]), split)
                files = [files[i] for i in kept.tolist()]
        except DataError as error:
            raise InputError(str(error)) from error
        self._folder, self._files = own or path, [file for file, _ in files]
        labels = Labels(class_numbers([label for _, label in files], names, class_names))
        super().__init__(len(files), spec, labels, len(class_names) or None)

    def paths(self, index: int | None = None) -> dict[str, Path]:
        """The files of the chosen rows, or the one of a row."""
        rows = self.indices if index is None else [index]
        return {str(self.custom_id(row)): self._files[row] for row in rows}

    def read(self, index: int) -> Row:
        """The bytes of one image file.

        Raises:
            BadImageError: it cannot be read any more.
        """
        try:
            return Row(self._files[index].read_bytes(), *self.about(index))
        except OSError as error:
            raise BadImageError(f"{self.custom_id(index)} cannot be read: {error.strerror}.") from error

    def custom_id(self, index: int) -> str | None:
        """The image's path below the folder."""
        return str(Path(self._files[index]).relative_to(self._folder))
