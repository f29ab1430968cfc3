"""Uploaded files: kept once, under the SHA-256 of their bytes.

A file is on disk before its row is in the store: a crash may leave a file without a row, never a row without its file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

from spacte_client.types import File, FileList

from .callers import Caller
from .content_files import keep, received
from .ids import new_id, page_info
from .jobs.data_folder import DataFolder
from .problems import ProblemError
from .quotas import over_quota, quotas_as_problems

if TYPE_CHECKING:
    from spacte_service.store import Store
    from spacte_service.store.schema import FileRow
    from spacte_workers.batch.inputs import Kind

FORM_BYTES = 4096  # of a body that are not the file's; chosen: more than a form of one part has
PIECE_BYTES = 1 << 20  # chosen: hashing and writing cost more than the calls
NAME_LENGTH = 255  # as the column of the store, and as file systems


@dataclass(frozen=True)
class Uploads:
    """The uploaded files of a data folder. Everything here blocks: call it in threads."""

    _store: "Store"
    _data: DataFolder
    _kind_of: Callable[[Path], "Kind | None"]

    def check_quota(self, caller: Caller, declared: int) -> None:
        """Refuse an upload that is declared to have more bytes than its caller may keep. Raises ProblemError: 429."""
        most = caller.quotas.upload_bytes
        if most is not None and self._store.files.bytes_of(caller.id) + declared > most + FORM_BYTES:
            raise over_quota("upload_bytes", most)

    def add(self, content: IO[bytes], filename: str | None, caller: Caller) -> File:
        """Keep a file; the same bytes sent again by the same owner are the same file.

        Raises ProblemError: 415, it is nothing that is certified here; 400, it is empty; 429, the quota is used up.
        """
        from spacte_service.store.schema import FileRow

        with received(iter(partial(content.read, PIECE_BYTES), b""), self._data.uploads / "incoming") as file:
            kind = self._kind_of(file.path)
            if not file.bytes:
                raise ProblemError("bad_request", "The file is empty; send an npz, a zip of images or a parquet file.")
            if kind is None:
                sentence = "The file is none of npz, zip of images, parquet and image; send one of these."
                raise ProblemError("unsupported_media_type", sentence)
            keep(file, self.path(file.sha256))
            self._data.keep(self.path(file.sha256))
            row = FileRow(
                id=new_id("file"),
                owner=caller.owner,
                caller=caller.id,
                sha256=file.sha256,
                bytes=file.bytes,
                kind=kind,
                filename=(filename or "")[-NAME_LENGTH:] or None,
                created_at=datetime.now(UTC),
            )
            with quotas_as_problems():
                row = self._store.files.add(row, caller.quotas.upload_bytes)
            keep(file, self.path(file.sha256))  # where the same file was deleted meanwhile
            self._data.keep(self.path(file.sha256))
        return _to_wire(row)

    def row(self, file_id: str, caller: Caller) -> "FileRow":
        """One file's row. Raises ProblemError: 404."""
        row = self._store.files.get(file_id, caller.sees)
        if row is None:
            raise _missing(file_id)
        return row

    def get(self, file_id: str, caller: Caller) -> File:
        """One file. Raises ProblemError: 404."""
        return _to_wire(self.row(file_id, caller))

    def image(self, caller: Caller, file_id: str, max_bytes: int) -> bytes:
        """The bytes of an image.

        Raises ProblemError: 404; 415, the file is no image; 413, it is larger than `max_bytes`.
        """
        row = self.row(file_id, caller)
        if row.kind != "image":
            sentence = f"{file_id} is of kind {row.kind}; name an image here, or make a job of this file."
            raise ProblemError("unsupported_media_type", sentence)
        if row.bytes > max_bytes:
            sentence = f"{file_id} has {row.bytes:,} bytes, and at most {max_bytes:,} are left; send less at once."
            raise ProblemError("payload_too_large", sentence)
        try:
            return self.here(row.sha256).read_bytes()
        except FileNotFoundError:  # deleted just now
            raise _missing(file_id) from None

    def page(self, limit: int, after: str | None, caller: Caller) -> FileList:
        """Files that the caller sees, newest first. Raises ProblemError: 404, there is no file `after`."""
        from spacte_service.store.sessions import CursorError

        try:
            rows, more = self._store.files.page(limit, after, caller.sees)
        except CursorError:
            raise _missing(after or "") from None
        return FileList(data=[_to_wire(row) for row in rows], **page_info(rows, more))

    def remove(self, file_id: str, caller: Caller) -> None:
        """Delete a file. Raises ProblemError: 404; 409, a job needs it."""
        from spacte_service.store.files import FileInUseError

        try:
            row = self._store.files.remove(file_id, lambda row: self._data.delete(self.path(row.sha256)), caller.sees)
        except FileInUseError as error:
            sentence = f"{error.args[0]} reads this file; wait for the job to end, or cancel it."
            raise ProblemError("file_in_use", sentence) from None
        if row is None:
            raise _missing(file_id)

    def path(self, sha256: str) -> Path:
        """Where the bytes of a file are kept."""
        return self._data.uploads / sha256[:2] / sha256

    def here(self, sha256: str) -> Path:
        """The same, with the bytes fetched from the storage where another gateway took them in."""
        path = self.path(sha256)
        self._data.restore(path)
        return path


def _missing(file_id: str) -> ProblemError:
    return ProblemError("file_not_found", f"There is no file {file_id[:64]!r}; upload it first.")


def _to_wire(row: "FileRow") -> File:
    return File.model_validate(row, from_attributes=True)
