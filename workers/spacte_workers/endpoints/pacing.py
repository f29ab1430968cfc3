"""A limit of requests a second that all processes of one user on one machine keep together."""

import fcntl
import hashlib
import time

from spacte_core.files import cache_folder

_FAR = 3600.0  # seconds. Chosen: whoever is told to wait longer has another clock, and is not believed


class Pace:
    """Hands out times to begin, evenly spaced; the next free one stands in a small file under a lock.

    Args:
        url: whom the limit is for.
        per_second: the limit; None is none.
    """

    def __init__(self, url: str, per_second: float | None) -> None:
        self._every = None if per_second is None else 1 / per_second
        self._path = cache_folder() / "endpoints" / hashlib.sha256(url.encode()).hexdigest()[:32]

    def wait(self) -> None:
        """Sleep until it is one's turn."""
        if self._every is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path.touch(mode=0o600)
        with self._path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            now = time.time()
            try:
                free = float(file.read())
            except ValueError:  # a new file
                free = now
            mine = max(now, free) if free < now + _FAR else now
            file.seek(0)
            file.write(f"{mine + self._every:020.6f}".encode())
        time.sleep(max(0.0, mine - now))
