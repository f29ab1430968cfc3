"""The calibration of a model's prediction sets: scores of held-out images, in a file beside the checkpoint."""

import io
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from spacte_client.types import Noise, Precision
from spacte_core.files import replace_file
from spacte_workers.errors import NotCalibratedError

CALIBRATION_FILE = "calibration.npz"
"""Its name in the checkpoint folder. It is not part of the checkpoint's version."""

_SCHEMA = 1
_KEPT = 16  # calibrations in memory. Chosen: as many models as a gateway serves, at .6 MB for 1,000 images


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Scores of the true classes of held-out images, and which function and images they are of.

    Attributes:
        scores_MN: float32, M images under N noises each.
        model_version: SHA-256 over the checkpoint.
        sigma, noise, precision, kernels: the function, as a certificate names it.
        data, data_sha256: the images, as they were named, and SHA-256 over pixels and labels.
        seed: of the noises, 32 hex digits.
        created_at: RFC 3339, UTC.
    """

    scores_MN: NDArray[np.float32]
    model_version: str
    sigma: float
    noise: Noise
    precision: Precision
    kernels: str
    data: str
    data_sha256: str
    seed: str
    created_at: str

    def save(self, folder: Path) -> None:
        """Write it beside a checkpoint, in place of an earlier one."""
        about = asdict(self)
        del about["scores_MN"]
        text = json.dumps({"schema": _SCHEMA, **about}).encode()
        buffer = io.BytesIO()
        np.savez(buffer, scores=self.scores_MN, about=np.frombuffer(text, np.uint8))
        replace_file(folder / CALIBRATION_FILE, buffer.getvalue())

    def check(self, *, model_version: str, precision: str, kernels: str) -> None:
        """See that it is of the function that answers now: scores of another one say nothing about it.

        Raises:
            NotCalibratedError: it is of another version, precision or kernels.
        """
        now = {"model_version": model_version, "precision": precision, "kernels": kernels}
        for name, value in now.items():
            if (then := getattr(self, name)) != value:
                what = f"was made with {name} {then[:40]}, and the model is served with {value[:40]}"
                raise NotCalibratedError(f"The model's calibration {what}: run `spacte calibrate` again here.")


def load_calibration(folder: Path) -> Calibration:
    """The calibration beside a checkpoint.

    Raises:
        NotCalibratedError: there is none, or it cannot be read.
    """
    path = folder / CALIBRATION_FILE
    try:
        about = path.stat()
        return _read(path, about.st_mtime_ns, about.st_ino)
    except FileNotFoundError:
        sentence = f"Model {folder.name} has no calibration: run `spacte calibrate {folder.name} --data ...` first."
        raise NotCalibratedError(sentence) from None
    except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
        sentence = f"{CALIBRATION_FILE} of model {folder.name} cannot be read ({error}): run `spacte calibrate` again."
        raise NotCalibratedError(sentence) from error


@lru_cache(_KEPT)
def _read(path: Path, _written_ns: int, _inode: int) -> Calibration:
    """The calibration in a file, read once for each time that it is written."""
    with np.load(path, allow_pickle=False) as file:
        about: dict[str, Any] = json.loads(bytes(file["about"]))
        if about.pop("schema") != _SCHEMA:
            raise ValueError("it is of another version")
        return Calibration(scores_MN=np.asarray(file["scores"], np.float32), **about)
