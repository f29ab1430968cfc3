"""Takes uploads in, and finds them again.

A file is written beside its place, flushed to disk, renamed into it, and only then written down in the store:
a crash leaves at most a file that no one knows, never a row without its file.
"""

import hashlib
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING

from spacte_client.types import File, FileList
from spacte_service.ids import new_id
from spacte_service.problems import ProblemError

if TYPE_CHECKING:
    from spacte_service.store import Store
    from spacte_service.store.schema import FileRow

PIECE = 1 << 20
NAME_LENGTH = 255


class Uploads:
    """The uploaded files of a data folder. Everything here blocks: call it in threads."""

    def __init__(self, store: "Store", folder: Path) -> None:
        self._store = store
        self._folder = folder

    def add(self, content: IO[bytes], filename: str | None) -> File:
        """Keep a file; the same bytes sent again are the same file.

        Raises:
            ProblemError: 415, it is nothing that is certified here; 400, it is empty.
        """
        from spacte_service.store.schema import FileRow
        from spacte_workers.batch.inputs import kind_of

        incoming = self._folder / "incoming"
        incoming.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=incoming) as file:
            digest, size = _copy(content, file)
            kind = kind_of(Path(file.name))
            if not size:
                raise ProblemError("bad_request", "The file is empty; send an npz, a zip of images or a parquet file.")
            if kind is None:
                sentence = "The file is none of npz, zip of images, parquet and image; send one of these."
                raise ProblemError("unsupported_media_type", sentence)
            place = self.path(digest)
            _put(Path(file.name), place)
            row = FileRow(
                id=new_id("file"),
                sha256=digest,
                bytes=size,
                kind=kind,
                filename=(filename or "")[-NAME_LENGTH:] or None,
                created_at=datetime.now(UTC),
            )
            row = self._store.files.add(row)
            _put(Path(file.name), place)  # where the same file was deleted meanwhile
        return _to_wire(row)

    def get(self, file_id: str) -> File:
        """One file.

        Raises:
            ProblemError: 404.
        """
        row = self._store.files.get(file_id)
        if row is None:
            raise missing(file_id)
        return _to_wire(row)

    def image(self, file_id: str, max_bytes: int) -> bytes:
        """The bytes of an image.

        Raises:
            ProblemError: 404; 415, the file is no image; 413, it is larger than `max_bytes`.
        """
        row = self._store.files.get(file_id)
        if row is None:
            raise missing(file_id)
        if row.kind != "image":
            sentence = f"{file_id} is of kind {row.kind}; name an image here, or make a job of this file."
            raise ProblemError("unsupported_media_type", sentence)
        if row.bytes > max_bytes:
            sentence = f"{file_id} has {row.bytes:,} bytes, and at most {max_bytes:,} are left; send less at once."
            raise ProblemError("payload_too_large", sentence)
        try:
            return self.path(row.sha256).read_bytes()
        except FileNotFoundError:  # deleted just now
            raise missing(file_id) from None

    def page(self, limit: int, after: str | None) -> FileList:
        """Files, newest first.

        Raises:
            ProblemError: 404, there is no file `after`.
        """
        from spacte_service.store.sessions import CursorError

        try:
            rows, more = self._store.files.page(limit, after)
        except CursorError:
            raise missing(after or "") from None
        data = [_to_wire(row) for row in rows]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return FileList(data=data, has_more=more, first_id=first, last_id=last)

    def remove(self, file_id: str) -> None:
        """Delete a file.

        Raises:
            ProblemError: 404; 409, a job needs it.
        """
        from spacte_service.store.files import FileInUseError

        try:
            row = self._store.files.remove(file_id, lambda row: self.path(row.sha256).unlink(missing_ok=True))
        except FileInUseError as error:
            sentence = f"{error.args[0]} reads this file; wait for the job to end, or cancel it."
            raise ProblemError("file_in_use", sentence) from None
        if row is None:
            raise missing(file_id)

    def path(self, sha256: str) -> Path:
        """Where the bytes of a file are."""
        return self._folder / sha256[:2] / sha256


def missing(file_id: str) -> ProblemError:
    """The 404 of a file."""
    return ProblemError("file_not_found", f"There is no file {file_id[:64]!r}; upload it first.")


def _copy(content: IO[bytes], file: IO[bytes]) -> tuple[str, int]:
    digest = hashlib.sha256()
    size = 0
    while piece := content.read(PIECE):
        digest.update(piece)
        size += len(piece)
        file.write(piece)
    file.flush()
    os.fsync(file.fileno())
    return digest.hexdigest(), size


def _put(file: Path, place: Path) -> None:
    """Give a temporary file its lasting name, unless its bytes are there."""
    if place.exists():
        return
    place.parent.mkdir(exist_ok=True)
    whole = file.with_name(f"{file.name}.whole")
    os.link(file, whole)
    whole.replace(place)
    _sync(place.parent)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _to_wire(row: "FileRow") -> File:
    return File(
        id=row.id,
        bytes=row.bytes,
        sha256=row.sha256,
        kind=row.kind,  # pyright: ignore[reportArgumentType]  the column holds only what `add` wrote
        filename=row.filename,
        created_at=row.created_at,
    )
