"""Keeps the model of a job as it was when the job was made, so that replacing it does not touch the job."""

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Collection
from pathlib import Path

from spacte_service.problems import ProblemError

FILES = ("config.json", "model.safetensors")
"""A checkpoint's version is the SHA-256 over these, in this order."""

VERSION_LENGTH = 64

FRESH_S = 3600.0
"""A copy is made before its job is written down, so that one which was asked for just now is not given up."""


def keep_checkpoint(models: Path, name: str, version: str, place: Path) -> None:
    """Copy a checkpoint to `place`, unless it is there.

    Args:
        models: the models folder: one checkpoint, or a folder of them.
        name: the model.
        version: which version of it is served.
        place: the copy; its last two names are version and name.

    Raises:
        ProblemError: 503, the folder holds another version by now.
    """
    if place.exists():
        os.utime(place)
        return
    source = models if (models / FILES[0]).exists() else models / name
    place.parent.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent.parent) as folder:
        copy = Path(folder) / name
        copy.mkdir()
        digest = hashlib.sha256()
        try:
            for file in FILES:
                shutil.copyfile(source / file, copy / file)
                digest.update((copy / file).read_bytes())
        except OSError:
            raise _changed(name) from None
        if digest.hexdigest() != version:
            raise _changed(name)
        place.parent.mkdir(exist_ok=True)
        try:
            copy.rename(place)
        except OSError:
            if not place.exists():  # otherwise another request was first
                raise


def give_up_checkpoints(root: Path, used: Collection[str]) -> list[str]:
    """Delete the copies that no job needs any more.

    Args:
        root: the folder of all copies, VERSION/NAME below it.
        used: paths of the copies that jobs have.

    Returns:
        The paths of those deleted.
    """
    if not root.is_dir():
        return []
    old = time.time() - FRESH_S
    idle = [
        place
        for place in root.glob("*/*")
        if len(place.parent.name) == VERSION_LENGTH and str(place) not in used and place.stat().st_mtime < old
    ]
    for place in idle:
        shutil.rmtree(place, ignore_errors=True)
        if not any(place.parent.iterdir()):
            place.parent.rmdir()
    return [str(place) for place in idle]


def _changed(name: str) -> ProblemError:
    sentence = f"The checkpoint of model {name} has changed on disk; have it loaded again, then retry."
    return ProblemError("model_loading", sentence, retry_after_s=5.0)
