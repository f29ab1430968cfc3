"""Files that are kept under the SHA-256 of their bytes: the same bytes are kept once."""

import hashlib
import os
import tempfile
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from spacte_core.files import sync_folder


@dataclass(frozen=True, slots=True)
class ReceivedFile:
    """A file that has arrived as a whole and is on disk, under a temporary name."""

    path: Path
    sha256: str
    bytes: int


@contextmanager
def received(pieces: Iterable[bytes], folder: Path) -> Generator[ReceivedFile]:
    """A temporary file of all the pieces in `folder`, on the disk where `keep` is to give it a lasting name."""
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with tempfile.NamedTemporaryFile(dir=folder, prefix="incoming-") as file:
        for piece in pieces:
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
        yield ReceivedFile(Path(file.name), digest.hexdigest(), file.tell())


def keep(file: ReceivedFile, path: Path) -> None:
    """Give a file a lasting name, which is on disk when this returns. Where it is kept already, it counts as new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            os.link(file.path, path)
        except FileExistsError:
            try:
                os.utime(path)
            except FileNotFoundError:  # deleted between the two calls
                continue
        break
    sync_folder(path.parent)
