"""zip: image files in the order of their names.

Classes are those of a table beside them (`label_tables.py`), or of the folders that the images lie in, where these are
called like the model's classes. All of it may lie in a folder.
Members are read one at a time and never written to disk.
"""

import stat
import threading
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from spacte_core.hidden_names import is_hidden
from spacte_workers.images import BadImageError

from .base import InputError, InputSpec, Labels, Limits, Row, Source, named_labels
from .label_tables import TABLES, table_labels
from .label_values import label_values

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".npy"})


class ZipSource(Source):
    """Image files of a zip.

    Raises:
        InputError: it is no zip, or one that looks like an attack.
    """

    def __init__(self, path: Path, spec: InputSpec, limits: Limits, class_names: Sequence[str] = ()) -> None:
        self._path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise InputError("The zip file is damaged: pack it anew.") from error
        try:
            self._members = _images(self._archive, limits)
            labels = _labels(self._archive, self._members, limits, spec.label_column, class_names)
            super().__init__(len(self._members), spec, labels, len(class_names) or None)
        except BaseException:
            self._archive.close()
            raise
        self._lock = threading.Lock()

    def paths(self, index: int | None = None) -> dict[str, Path]:  # noqa: ARG002  all rows are in one file
        """The file."""
        return {self._path.name: self._path}

    def read(self, index: int) -> Row:
        """The bytes of one image file.

        Raises:
            BadImageError: its checksum is wrong or it cannot be unpacked.
        """
        info = self._members[index]
        try:
            with self._lock:
                content = self._archive.read(info)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError) as error:
            raise BadImageError(f"{info.filename[:200]} is damaged inside the zip: pack it anew.") from error
        return Row(content, *self.about(index))

    def custom_id(self, index: int) -> str | None:
        """The image's name in the zip."""
        return self._members[index].filename

    def close(self) -> None:
        """Close the file."""
        self._archive.close()


def _images(archive: zipfile.ZipFile, limits: Limits) -> list[zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    infos = archive.infolist()
    if infos and not any(info.file_size for info in infos):
        raise InputError(f"All {len(infos):,} files of the zip file are empty: pack image files.")
    for info in infos:
        name = info.filename[:200]
        path = PurePosixPath(info.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in info.filename or ":" in info.filename.split("/")[0]:
            raise InputError(f"The zip file names {name!r}, outside itself: pack it with plain names.")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise InputError(f"{name!r} in the zip file is a link: pack the image itself.")
        if info.flag_bits & 1:
            raise InputError("The zip file is encrypted: send it without a password.")
        if info.is_dir() or path.suffix.lower() not in IMAGE_SUFFIXES or is_hidden(info.filename):
            continue
        _check_size(info, limits)
        if info.filename in members:
            raise InputError(f"The zip file holds {name!r} twice: pack it with distinct names.")
        members[info.filename] = info
    if not members:
        raise InputError("The zip file holds no PNG, JPEG, WebP or npy file: send at least one image.")
    if len(members) > limits.images:
        raise InputError(f"The zip file holds {len(members):,} images: send at most {limits.images:,}.")
    return [members[name] for name in sorted(members)]


def _check_size(info: zipfile.ZipInfo, limits: Limits) -> None:
    """Refuse bombs, by the declared size: zipfile never yields more bytes than that."""
    if info.file_size > limits.member_bytes:
        raise InputError(
            f"{info.filename[:200]!r} of the zip file unpacks from {info.compress_size:,} to "
            f"{info.file_size:,} bytes: send image files of at most {limits.member_bytes:,} bytes."
        )


def _labels(
    archive: zipfile.ZipFile,
    members: Sequence[zipfile.ZipInfo],
    limits: Limits,
    wanted: str | None,
    class_names: Sequence[str],
) -> Labels:
    tables = [info for info in archive.infolist() if PurePosixPath(info.filename).name in TABLES]
    tables = [info for info in tables if not is_hidden(info.filename)]
    if tables:
        table = min(tables, key=lambda info: info.filename.count("/"))
        _check_size(table, limits)
        try:
            text = archive.read(table)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise InputError(f"{table.filename[:200]} is damaged inside the zip: pack it anew.") from error
        values = table_labels(text, table.filename, [info.filename for info in members], wanted)
        return Labels(
            label_values([value or None for value in values], class_names, f"Labels of {table.filename[:60]}")
        )
    folders = [PurePosixPath(info.filename).parent.name for info in members]
    if set(folders) <= set(class_names):
        return Labels(named_labels(folders, class_names, "The folders of the zip file"))
    sentence = (
        "The zip file has no labels.csv (`name,label`), and its folders are not called like the model's classes, so"
    )
    return Labels(missing=f"{sentence} no accuracy is measured.")
