"""One process at a time in a folder: two that train into one would replace each other's state."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spacte_trainer.state import StateError

LOCK_FILE = ".lock"


class BusyFolderError(StateError):
    """Another process is at work in the folder."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only process in `folder`, which is made where it is missing.

    The lock is the system's, on a file that stays: it is let go of however the process ends.

    Raises:
        BusyFolderError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("ab") as file:
        if not try_lock(file.fileno()):
            raise BusyFolderError(
                f"Another process is at work in {folder}: wait for it, stop it, or choose another folder."
            )
        yield


def try_lock(fd: int) -> bool:
    """Lock an open file for this process alone until it is closed; False where another one has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
