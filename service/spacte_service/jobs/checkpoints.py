"""Copies of models as they were when jobs were made, so that replacing a model does not touch its jobs."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

from spacte_core.files import place_folder, replace_file
from spacte_service.problems import ProblemError
from spacte_workers.serving.model_sources import VERSIONED

from .data_folder import unused

VERSION_LENGTH = 64  # hexadecimal digits of a SHA-256
RELOAD_S = 5.0  # `Retry-After` where the folder has changed; chosen: loading a model takes seconds


def keep_checkpoint(models: Path, name: str, version: str, path: Path) -> None:
    """Copy a version of a model from the models folder to `path`, VERSION/NAME, unless it is there.

    Raises ProblemError: 503, the folder holds another version by now.
    """
    if path.exists():
        os.utime(path)
        return
    source = models if (models / VERSIONED[0]).exists() else models / name
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent.parent) as folder:
        copy = Path(folder) / name
        copy.mkdir()
        digest = hashlib.sha256()
        try:
            for file in VERSIONED:
                data = (source / file).read_bytes()
                digest.update(data)
                replace_file(copy / file, data)
        except OSError:
            raise _changed(name) from None
        if digest.hexdigest() != version:
            raise _changed(name)
        place_folder(copy, path)


def delete_unused_checkpoints(root: Path, used: Collection[str]) -> list[str]:
    """Delete the copies VERSION/NAME in `root` whose paths are not `used`; the paths of those deleted."""
    copies = (path for path in root.glob("*/*") if len(path.parent.name) == VERSION_LENGTH)
    old = unused(copies, used)
    for path in old:
        shutil.rmtree(path, ignore_errors=True)
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    return [str(path) for path in old]


def _changed(name: str) -> ProblemError:
    sentence = f"The checkpoint of model {name} has changed on disk; have it loaded again, then retry."
    return ProblemError("model_loading", sentence, retry_after_s=RELOAD_S)
