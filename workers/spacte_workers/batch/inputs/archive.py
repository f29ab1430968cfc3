"""zip: image files in the order of their names; classes from `labels.csv` (`name,label`) where it is in.

Members are read one at a time and never written to disk.
"""

import csv
import io
import stat
import threading
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from spacte_workers.images import BadImageError

from .base import InputError, InputSpec, Limits, Row, Source

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".npy"})
LABELS = "labels.csv"


class ZipSource(Source):
    """Image files of a zip.

    Raises:
        InputError: it is no zip, or one that looks like an attack.
    """

    def __init__(self, path: Path, spec: InputSpec, limits: Limits) -> None:
        try:
            self._archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise InputError("The zip file is damaged: pack it anew.") from error
        try:
            self._members = _images(self._archive, limits)
            self._labels = _labels(self._archive, limits)
            super().__init__(len(self._members), spec)
            if self._labels is not None:
                _check_complete(self._members, self._labels)
        except BaseException:
            self._archive.close()
            raise
        self._lock = threading.Lock()

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

    def about(self, index: int) -> tuple[int | None, str | None]:
        """The image's true class, and its name in the zip."""
        name = self._members[index].filename
        return (None if self._labels is None else self._labels[name]), name

    def close(self) -> None:
        """Close the file."""
        self._archive.close()


def _images(archive: zipfile.ZipFile, limits: Limits) -> list[zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename[:200]
        path = PurePosixPath(info.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in info.filename or ":" in path.parts[0]:
            raise InputError(f"The zip file names {name!r}, outside itself: pack it with plain names.")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise InputError(f"{name!r} in the zip file is a link: pack the image itself.")
        if info.flag_bits & 1:
            raise InputError("The zip file is encrypted: send it without a password.")
        if info.is_dir() or path.suffix.lower() not in IMAGE_SUFFIXES or _hidden(path):
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


def _hidden(path: PurePosixPath) -> bool:
    """Files that desktop systems add when they pack."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _check_size(info: zipfile.ZipInfo, limits: Limits) -> None:
    """Refuse bombs, by the declared size: zipfile never yields more bytes than that."""
    bomb = info.file_size > limits.ratio_floor and info.file_size > limits.ratio * info.compress_size
    if bomb or info.file_size > limits.member_bytes:
        raise InputError(
            f"{info.filename[:200]!r} of the zip file unpacks from {info.compress_size:,} to "
            f"{info.file_size:,} bytes: send image files of at most {limits.member_bytes:,} bytes."
        )


def _labels(archive: zipfile.ZipFile, limits: Limits) -> dict[str, int] | None:
    try:
        info = archive.getinfo(LABELS)
    except KeyError:
        return None
    _check_size(info, limits)
    try:
        rows = list(csv.DictReader(io.StringIO(archive.read(info).decode("utf-8-sig"))))
        return {row["name"]: int(row["label"]) for row in rows}
    except (KeyError, TypeError, ValueError, csv.Error, zipfile.BadZipFile, zlib.error) as error:
        sentence = f"{LABELS} cannot be read: write the columns `name,label`, with class numbers."
        raise InputError(sentence) from error


def _check_complete(members: list[zipfile.ZipInfo], labels: dict[str, int]) -> None:
    missing = next((info.filename for info in members if info.filename not in labels), None)
    if missing is not None:
        sentence = f"{LABELS} has no row for {missing[:200]!r}: list every image, or leave the file out."
        raise InputError(sentence)
