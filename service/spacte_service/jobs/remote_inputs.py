"""Inputs of jobs that are on another machine, copied into the data folder under the SHA-256 of their bytes."""

from collections.abc import Collection, Iterable, Sequence
from functools import partial
from pathlib import Path

from spacte_service.content_files import keep, received

from .data_folder import unused

PIECE_BYTES = 1 << 20  # chosen: writing costs more than the calls


def fetch_input(uri: str, roots: Sequence[str], folder: Path, most_bytes: int) -> Path:
    """Copy what a URI below one of the prefixes `roots` names into `folder`, the folder of all such copies.

    Raises InputError: it is not allowed, not there, too large or cannot be reached.
    """
    from spacte_workers.batch.inputs import pieces

    return _kept(pieces(uri, roots, most_bytes), folder)


def copy_input(path: Path, folder: Path) -> Path:
    """Copy a file of this machine into `folder`, as for a driver that does not see where it is.

    Raises InputError: it cannot be read.
    """
    from spacte_workers.batch.inputs import InputError

    try:
        with path.open("rb") as source:
            return _kept(iter(partial(source.read, PIECE_BYTES), b""), folder)
    except PermissionError:
        raise InputError(f"{path.name} cannot be read: have the operator allow it.") from None


def _kept(content: Iterable[bytes], folder: Path) -> Path:
    """The file of these bytes in `folder`."""
    with received(content, folder) as file:
        path = folder / file.sha256
        keep(file, path)
    return path


def delete_unused_inputs(folder: Path, used: Collection[str]) -> list[str]:
    """Delete the copies in `folder` whose paths are not `used`; the paths of those deleted."""
    old = unused(folder.iterdir() if folder.is_dir() else (), used)
    for path in old:
        path.unlink(missing_ok=True)
    return [str(path) for path in old]
