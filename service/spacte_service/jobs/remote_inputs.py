"""Inputs that lie elsewhere, copied into the data folder: the same bytes once, until no job has them any more."""

import hashlib
import os
import tempfile
import time
from collections.abc import Collection, Sequence
from pathlib import Path

FRESH_S = 3600.0
"""A copy is made before its job is written down, so that one which was asked for just now is not given up."""


def fetch_input(uri: str, roots: Sequence[str], folder: Path, most_bytes: int) -> Path:
    """Copy what a URI names into `folder`, under the SHA-256 of its bytes.

    Args:
        uri: of a scheme that fsspec has a driver for.
        roots: prefixes below which it must lie.
        folder: of all such copies.
        most_bytes: a larger file is refused.

    Raises:
        InputError: it is not allowed, not there, too large or cannot be reached.
    """
    from spacte_workers.batch.inputs import pieces

    digest = hashlib.sha256()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix="incoming-") as file:
        for piece in pieces(uri, roots, most_bytes):
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
        place = folder / digest.hexdigest()
        try:
            os.link(file.name, place)
        except FileExistsError:
            os.utime(place)
    return place


def give_up_inputs(folder: Path, used: Collection[str]) -> list[str]:
    """Delete the copies that no job needs any more.

    Args:
        folder: of all such copies.
        used: locations of the inputs that jobs have.

    Returns:
        The paths of those deleted.
    """
    if not folder.is_dir():
        return []
    old = time.time() - FRESH_S
    idle = [place for place in folder.iterdir() if str(place) not in used and place.stat().st_mtime < old]
    for place in idle:
        place.unlink(missing_ok=True)
    return [str(place) for place in idle]
