"""What keeps other users of a machine, and of its network, away from a local Ray: a folder of ours, and loopback.

Ray opens its sockets, logs and spilled objects to everybody (0777). So they lie below a folder that only this user may
enter; one that a killed process left behind is deleted at the next start.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from spacte_core.locks import LOCK_FILE, try_lock
from spacte_workers.errors import ClusterError

PREFIX = "spacte-ray-"
LOOPBACK_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Where it is 0, Ray takes 127.0.0.1 for this machine's address, and every server of it listens there alone."""
LONGEST = 43
"""Of a socket's path 107 characters are allowed (unix(7)); Ray's session and socket names take 64 of them."""


class LocalFolder:
    """The folder of one local Ray, below `RAY_TMPDIR` or `/tmp`: `TMPDIR` may be too long for sockets.

    Raises ClusterError: it cannot be made.
    """

    def __init__(self) -> None:
        base = Path(os.environ.get("RAY_TMPDIR") or "/tmp")  # noqa: S108  the folder made in it is ours alone
        sweep(base)
        try:
            base.mkdir(parents=True, exist_ok=True)
            self._root = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
            self._lock = _locked(self._root)
        except OSError as error:
            raise ClusterError(
                f"No folder for Ray can be made in {base} ({error.strerror}): name another one in RAY_TMPDIR."
            ) from error
        self.path = self._root / "r"
        if len(str(self.path)) > LONGEST:
            self.remove()
            raise ClusterError(f"{base} is too long for the paths of Ray's sockets: name a shorter one in RAY_TMPDIR.")

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self._root, ignore_errors=True)
        os.close(self._lock)


def sweep(base: Path) -> None:
    """Delete the folders of this user whose processes are gone."""
    for root in base.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if root.is_symlink() or root.stat().st_uid != os.geteuid():
                continue
            file = os.open(root / LOCK_FILE, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if try_lock(file):
                    shutil.rmtree(root, ignore_errors=True)
            finally:
                os.close(file)


def _locked(root: Path) -> int:
    """Make the lock of a new folder; it has its name only once it is held."""
    new = root / f"{LOCK_FILE}.new"
    file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try_lock(file)
    new.rename(root / LOCK_FILE)
    return file


@contextmanager
def on_loopback() -> Iterator[None]:
    """Have a Ray that is started in the block listen on loopback only; what it starts later inherits that."""
    constants: Any = import_module("ray._private.ray_constants")
    before, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    variable = os.environ.get(LOOPBACK_VARIABLE)
    os.environ[LOOPBACK_VARIABLE] = "0"
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before
        if variable is None:
            del os.environ[LOOPBACK_VARIABLE]
        else:
            os.environ[LOOPBACK_VARIABLE] = variable
