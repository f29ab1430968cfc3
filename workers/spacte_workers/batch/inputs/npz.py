"""npz: `images` as one array [N, C, H, W] or [N, H, W, C], and `labels` [N] where there are any.

Other names that are in use are known, too; of a file with arrays of both splits those of the test split are taken.

An archive that was packed by hand from `images.npy` and `labels.npy` is the same, also with their folder in it.

The array stays on disk: an uncompressed one is mapped where it lies, a compressed one is unpacked once into
an unnamed temporary file and mapped there. Nothing is unpickled.
"""

import struct
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from shutil import copyfileobj
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from spacte_core.hidden_names import is_hidden
from spacte_workers.images import read_npy_header

from .base import InputError, InputSpec, Labels, Limits, Row, Source
from .label_values import label_values

IMAGE_ARRAYS = ("images", "image", "x_test", "X_test", "test_images", "x", "X", "data", "arr_0")
LABEL_ARRAYS = ("labels", "label", "targets", "target", "y_test", "Y_test", "test_labels", "y", "Y", "arr_1")
"""What files of arrays call images and true classes, in the order in which they are looked for. Chosen: what is in
use: numpy's own names, those of Keras, of scikit-learn and of MedMNIST."""

_LOCAL_HEADER = struct.Struct("<26xHH")  # PKZIP APPNOTE, 4.3.7: lengths of name and extra field at its end


class NpzSource(Source):
    """Rows of an npz file.

    `input_shape` is the (C, H, W) that the model takes; it tells which axis holds the channels.

    Raises:
        InputError: it is no such file, or not for this model.
    """

    def __init__(
        self, path: Path, spec: InputSpec, input_shape: Sequence[int], limits: Limits, class_names: Sequence[str] = ()
    ) -> None:
        self._path = path
        try:
            with zipfile.ZipFile(path) as archive:
                members = _members(archive)
                pixels = next((name for name in IMAGE_ARRAYS if name in members), None)
                if pixels is None:
                    there = ", ".join(sorted(members)) or "nothing"
                    raise InputError(f"The npz file holds {there[:200]}: it needs an array named `images`.")
                for info in members.values():
                    _check_size(info, limits)
                images = _map(path, archive, members[pixels])
                name = _label_array(members, spec.label_column)
                labels = None if name is None else _map(path, archive, members[name])
        except (zipfile.BadZipFile, zlib.error, OSError, ValueError, EOFError, NotImplementedError) as error:
            raise InputError("The npz file is damaged: write it anew with numpy.savez.") from error
        self._images_NCHW = _channels_first(images, tuple(input_shape))
        total = len(images)
        if labels is not None and labels.shape == (total, 1):
            labels = labels[:, 0]
        if labels is not None and (labels.shape != (total,) or labels.dtype.kind not in "iufbU"):
            about = f"shape {list(labels.shape)} and type {labels.dtype}"
            raise InputError(f"`{name}` has {about}: it must hold {total} whole numbers.")
        if total > limits.images:
            raise InputError(f"The npz file holds {total:,} images: send at most {limits.images:,}.")
        super().__init__(total, spec, _labels(labels, name, members, class_names), len(class_names) or None)

    def paths(self, index: int | None = None) -> dict[str, Path]:  # noqa: ARG002  all rows are in one file
        """The file."""
        return {self._path.name: self._path}

    def read(self, index: int) -> Row:
        """The pixels of one row, copied out of the file."""
        return Row(np.array(self._images_NCHW[index]), *self.about(index))

    def close(self) -> None:
        """The mapping ends with the last reference to it."""
        del self._images_NCHW


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The arrays by name, without the folder that they may lie in."""
    files = [info for info in archive.infolist() if not is_hidden(info.filename) and not info.is_dir()]
    return {PurePosixPath(info.filename).name.removesuffix(".npy"): info for info in files}


def _label_array(members: dict[str, zipfile.ZipInfo], wanted: str | None) -> str | None:
    """The name of the array of labels, where there is one."""
    if wanted is not None and wanted not in members:
        there = ", ".join(sorted(members))[:200]
        raise InputError(f"There is no array {wanted[:60]!r} in the npz file, but {there}: name one of these.")
    return wanted or next((name for name in LABEL_ARRAYS if name in members), None)


def _labels(
    values: NDArray[Any] | None, name: str | None, members: dict[str, zipfile.ZipInfo], class_names: Sequence[str]
) -> Labels:
    if values is not None:
        return Labels(label_values(values.tolist(), class_names, f"The values of `{name}`"))
    there = ", ".join(sorted(members))[:200]
    return Labels(
        missing=f"The npz file has no array `labels` (it holds {there}), so no accuracy is measured: name it "
        "(--label-column)."
    )


def _check_size(info: zipfile.ZipInfo, limits: Limits) -> None:
    """Refuse what would unpack to too much; zipfile never yields more bytes than a member declares."""
    if info.flag_bits & 1:
        raise InputError("The npz file is encrypted: send it without a password.")
    if info.compress_type != zipfile.ZIP_STORED and info.file_size > limits.unpacked_bytes:
        raise InputError(
            f"`{info.filename[:200]}` of the npz file unpacks to {info.file_size:,} bytes, more than the "
            f"{limits.unpacked_bytes:,} unpacked here: save it with numpy.savez, uncompressed."
        )


def _map(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    """The array of one member, mapped read-only."""
    with archive.open(info) as member:
        shape, fortran, dtype = read_npy_header(member)
        header = member.tell()
    if dtype.hasobject:
        raise InputError("The npz file holds Python objects: save arrays of numbers.")
    needed = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if info.file_size - header != needed:
        raise InputError(f"`{info.filename}` of the npz file is not as long as its header says: write it anew.")
    if needed == 0:  # an empty file cannot be mapped
        return np.empty(shape, dtype)
    if info.compress_type == zipfile.ZIP_STORED:
        file: IO[bytes] = path.open("rb")
        file.seek(info.header_offset)
        name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        start = info.header_offset + _LOCAL_HEADER.size + name + extra
    else:
        file = tempfile.TemporaryFile()  # noqa: SIM115  closed below; the mapping keeps the bytes
        with archive.open(info) as member:
            copyfileobj(member, file, 1 << 20)
        start = 0
    with file:
        file.flush()
        order = "F" if fortran else "C"
        return np.memmap(file, dtype, "r", start + header, shape, order)


def _channels_first(images: NDArray[Any], input_shape: tuple[int, ...]) -> NDArray[Any]:
    """A view [N, C, H, W] of `images`, whichever layout it has."""
    channels, height, width = input_shape
    if images.ndim >= 1 and len(images) == 0:
        raise InputError("The input holds no image: send at least one.")
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise InputError(f"`images` has type {images.dtype}: pixels are uint8, or floating point in [0, 1].")
    row = images.shape[1:]
    if row == input_shape:
        return images
    if row == (height, width, channels):
        return images.transpose(0, 3, 1, 2)
    if channels == 1 and row == (height, width):
        return images[:, None]
    raise InputError(
        f"`images` has shape {list(images.shape)}, but the model takes [N, {channels}, {height}, {width}] "
        f"or [N, {height}, {width}, {channels}]."
    )
