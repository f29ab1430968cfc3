"""Keeps the model of a job as it was when the job was made, so that replacing it does not touch the job."""

import hashlib
import shutil
import tempfile
from pathlib import Path

from spacte_service.problems import ProblemError

FILES = ("config.json", "model.safetensors")
"""A checkpoint's version is the SHA-256 over these, in this order."""


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
        return
    source = models if (models / FILES[0]).exists() else models / name
    place.parent.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent.parent) as folder:
        copy = Path(folder) / version / name
        copy.mkdir(parents=True)
        digest = hashlib.sha256()
        try:
            for file in FILES:
                shutil.copyfile(source / file, copy / file)
                digest.update((copy / file).read_bytes())
        except OSError:
            raise _changed(name) from None
        if digest.hexdigest() != version:
            raise _changed(name)
        try:
            copy.parent.rename(place.parent)
        except OSError:
            if not place.exists():  # otherwise another request was first
                raise


def _changed(name: str) -> ProblemError:
    sentence = f"The checkpoint of model {name} has changed on disk; have it loaded again, then retry."
    return ProblemError("model_loading", sentence, retry_after_s=5.0)
