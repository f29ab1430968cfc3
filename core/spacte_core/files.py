"""Files that are there as a whole or not at all, also after a power cut."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path, *, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` after the block: readers, also after a crash, see the old or the new.

    `mode` is that of a new file, before the process's umask.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(path.parent)


def replace_file(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Write `data` in place of what is at `path`; see `replacing`."""
    with replacing(path, mode=mode) as file:
        file.write(data)


def cache_folder() -> Path:
    """The folder of what can be made again, such as compiled kernels: in the user's own cache; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spacte"


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def place_folder(folder: Path, path: Path) -> None:
    """Move a finished folder, or file, of the same disk to `path`, unless another process has put one there meanwhile.

    Raises:
        OSError: it cannot be moved there.
    """
    path.parent.mkdir(exist_ok=True)
    try:
        folder.rename(path)
    except OSError:
        if not path.exists():
            raise
    sync_folder(path.parent)
