"""Inputs of jobs that are on another machine, copied into the data folder under the SHA-256 of their bytes."""

from collections.abc import Collection, Sequence
from pathlib import Path

from spacte_service.content_files import keep, received

from .data_folder import unused


def fetch_input(uri: str, roots: Sequence[str], folder: Path, most_bytes: int) -> Path:
    """Copy what a URI below one of the prefixes `roots` names into `folder`, the folder of all such copies.

    Raises InputError: it is not allowed, not there, too large or cannot be reached.
    """
    from spacte_workers.batch.inputs import pieces

    with received(pieces(uri, roots, most_bytes), folder) as file:
        path = folder / file.sha256
        keep(file, path)
    return path


def delete_unused_inputs(folder: Path, used: Collection[str]) -> list[str]:
    """Delete the copies in `folder` whose paths are not `used`; the paths of those deleted."""
    old = unused(folder.iterdir() if folder.is_dir() else (), used)
    for path in old:
        path.unlink(missing_ok=True)
    return [str(path) for path in old]
