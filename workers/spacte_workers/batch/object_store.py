"""Objects by name below a URL that fsspec has a driver for, such as s3://bucket/spacte: whole, or not there at all.

Of a driver only what object stores have is asked: whole objects are written, read, listed and deleted, and one is made
only where there is none of that name (S3's `If-None-Match: *`), which is what makes a driver of jobs the only one.
"""

import errno
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spacte_core.files import replacing

TOGETHER = 16
"""Objects fetched at the same time, at most. Chosen: the latency of a store is spread over them."""


class StorageError(OSError):
    """The store cannot be used now; the message is one sentence that names the remedy."""

    def __init__(self, sentence: str) -> None:
        super().__init__(errno.EIO, sentence)

    def __str__(self) -> str:
        return str(self.strerror)


class ObjectStore:
    """The objects below a URL. Everything here blocks, and may be called from several threads.

    Args:
        url: of a scheme whose driver writes; it takes credentials from the environment or from fsspec's configuration.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self.url = url.rstrip("/")
        # What other processes write is seen at once.
        with self._telling("opened"):
            system, root = url_to_fs(self.url, use_listings_cache=False)
        self._system: Any = system
        self._root: str = root

    def check(self) -> None:
        """See that objects can be written, and that none takes the place of another unasked. Raises StorageError."""
        probe = f"probe-{secrets.token_hex(8)}"
        first, second = self.create(probe, b"1"), self.create(probe, b"2")
        self.delete(probe)
        if not first or second:
            raise StorageError(
                f"{self.url} lets an object be replaced that was to be made only where there is none (If-None-Match): "
                "use a store that refuses that, as S3 does."
            )

    def create(self, name: str, data: bytes) -> bool:
        """Make an object; False where one of other contents has that name, which stays as it is."""
        try:
            with self._telling("written"):
                self._system.pipe_file(self._path(name), data, mode="create")
        except FileExistsError:
            return self.get(name) == data  # a request that was sent again after its answer was lost
        return True

    def put(self, name: str, data: bytes) -> None:
        """Make an object, or replace it."""
        with self._telling("written"):
            self._system.pipe_file(self._path(name), data)

    def get(self, name: str) -> bytes | None:
        """An object's contents; None where there is none."""
        try:
            with self._telling("read"):
                return self._system.cat_file(self._path(name))
        except FileNotFoundError:
            return None

    def get_all(self, names: Sequence[str]) -> list[bytes | None]:
        """The contents of several objects, None for each that is not there."""
        if len(names) == 1:
            return [self.get(names[0])]
        with ThreadPoolExecutor(TOGETHER, thread_name_prefix="object-store") as threads:
            return list(threads.map(self.get, names))

    def upload(self, path: Path, name: str) -> None:
        """Copy a file of this machine into the store."""
        with self._telling("written"):
            self._system.put_file(str(path), self._path(name))

    def download(self, name: str, path: Path) -> bool:
        """Copy an object to a file of this machine, which is there as a whole or not at all; False: there is none."""
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._telling("read"), self._system.open(self._path(name), "rb") as source, replacing(path) as file:
                while piece := source.read(1 << 20):
                    file.write(piece)
        except FileNotFoundError:
            return False
        return True

    def written(self, name: str) -> datetime | None:
        """When an object was written; None where it is not there, or the driver does not say."""
        try:
            with self._telling("read"):
                return _written(self._system.info(self._path(name)))
        except FileNotFoundError:
            return None

    def names(self, below: str) -> dict[str, datetime | None]:
        """The objects whose names begin with `below/`, and when each was written, where the driver says so."""
        try:
            with self._telling("listed"):
                found: dict[str, dict[str, Any]] = self._system.find(self._path(below), detail=True)
        except FileNotFoundError:
            return {}
        start = len(self._path(""))
        return {path[start:]: _written(about) for path, about in sorted(found.items())}

    def delete(self, *names: str) -> None:
        """Delete objects; those that are not there are left out."""
        for name in names:
            with self._telling("deleted"), suppress(FileNotFoundError):
                self._system.rm_file(self._path(name))

    def delete_below(self, name: str) -> None:
        """Delete every object whose name begins with `name/`."""
        self.delete(*self.names(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _telling(self, done: str) -> Iterator[None]:
        """Give errors of the driver as `StorageError`, but for those that say that something is there, or is not."""
        try:
            yield
        except FileNotFoundError as error:
            if done == "written":  # there is no such bucket
                raise self._fault(done, error) from error
            raise
        except (FileExistsError, StorageError):
            raise
        except Exception as error:  # a driver raises whatever it likes
            raise self._fault(done, error) from error

    def _fault(self, done: str, error: Exception) -> StorageError:
        return StorageError(
            f"The storage {self.url} cannot be {done} ({type(error).__name__}: {str(error)[:200].rstrip('.')}): mend "
            "access to it."
        )


def _written(about: dict[str, Any]) -> datetime | None:
    """When an object was written; drivers call it as their stores do."""
    when = about.get("LastModified") or about.get("created") or about.get("mtime")
    if isinstance(when, int | float):
        return datetime.fromtimestamp(when, UTC)
    if isinstance(when, datetime):
        return when if when.tzinfo else when.replace(tzinfo=UTC)
    return None
