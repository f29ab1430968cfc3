"""A folder's lock: one process at a time works in it, since two would replace each other's files."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError

LOCK_FILE = ".lock"


class FolderLockedError(UserError):
    """Another process works in the folder."""


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, which is made where it is missing.

    The lock is the system's, on a file that stays: it is released however the process ends.

    Raises:
        FolderLockedError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("ab") as file:
        if not try_lock(file.fileno()):
            raise FolderLockedError(
                f"Another process is at work in {folder}: wait for it, stop it, or choose another folder."
            )
        yield


def try_lock(fd: int) -> bool:
    """Lock an open file for this process until it is closed; False where another process has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
