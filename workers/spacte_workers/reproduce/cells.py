"""A cell on disk: its training run, the certificates that are done, and what they came to.

FOLDER/CELL/                              the run and its checkpoint, as `spacte train` leaves them
FOLDER/CELL/certified-VERSION.jsonl       a line an image, for the checkpoint of that version
FOLDER/CELL/cell.json                     the figures, once all images are certified
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from spacte_trainer.checkpoint import CONFIG_FILE, read_config
from spacte_trainer.runs import TRAINING
from spacte_trainer.state import STATE_FILE
from spacte_trainer.watch import LOG_FILE, read_log

CELL_FILE = "cell.json"


@dataclass(frozen=True)
class Cell:
    """What one trained model came to.

    Attributes:
        certified: certified accuracy at the protocol's radii, in [0, 1].
        train_seconds: wall time of the training, of all members and of what it started from.
        macs: multiply-adds of one noisy sample.
    """

    method: str
    sigma: float
    seed: int
    images: int
    acr: float
    certified: tuple[float, ...]
    train_seconds: float
    macs: int
    certify_seconds: float
    precision: str


@dataclass(frozen=True)
class Certified:
    """The certificate of one image, as far as a table needs it; an abstention is not correct."""

    index: int
    correct: bool
    radius: float
    seconds: float


def write_cell(place: Path, cell: Cell) -> None:
    """Keep the figures."""
    (place / CELL_FILE).write_text(json.dumps(asdict(cell), indent=2) + "\n")


def read_cell(place: Path) -> Cell | None:
    """The figures of a finished cell, else None."""
    file = place / CELL_FILE
    if not file.exists():
        return None
    found = json.loads(file.read_text())
    return Cell(**{**found, "certified": tuple(found["certified"])})


def certificates_file(place: Path) -> Path | None:
    """Where the certificates of the cell's checkpoint are; None while there is no checkpoint."""
    if not (place / CONFIG_FILE).exists():
        return None
    return place / f"certified-{read_config(place)[1][:16]}.jsonl"


def read_certificates(file: Path) -> dict[int, Certified]:
    """Certificates by image; a line that an interruption cut short is left out."""
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    whole = (json.loads(line) for line in lines if line.endswith("\n"))
    return {found["index"]: Certified(**found) for found in whole}


def write_certificates(file: Path, certificates: dict[int, Certified]) -> None:
    """Replace the file as a whole."""
    part = file.with_suffix(".part")
    part.write_text("".join(json.dumps(asdict(one)) + "\n" for one in certificates.values()))
    part.replace(file)


def epochs_done(place: Path) -> int:
    """Epochs of all parts of the cell's training run that are done."""
    logs = (place / TRAINING).glob(f"**/{LOG_FILE}")
    return sum(max((line["epoch"] for line in read_log(log)), default=0) for log in logs)


def progress(place: Path) -> tuple[bool, int, bool, int]:
    """How far a cell is, for comparing two copies of it."""
    file = certificates_file(place)
    certified = len(read_certificates(file)) if file is not None else 0
    return (place / CELL_FILE).exists(), certified, file is not None, epochs_done(place)


def merge(folder: Path, other: Path) -> int:
    """Take from another study's folder the cells that are further there; returns how many.

    Two copies of a cell with the same checkpoint share their certificates. Of a study's `results.json`, the figures
    of the cells that are not finished here are taken, without checkpoints.
    """
    if other.is_file():
        return _take_figures(folder, other)
    taken = 0
    for theirs in sorted(path for path in other.iterdir() if path.is_dir()):
        ours = folder / theirs.name
        known, new = certificates_file(ours), certificates_file(theirs)
        joined: dict[int, Certified] = {}
        if known is not None and new is not None and known.name == new.name:
            joined = read_certificates(new) | read_certificates(known)
            if len(joined) > len(read_certificates(known)):
                taken += 1
        elif _begun(theirs) and progress(theirs) > progress(ours):
            shutil.rmtree(ours, ignore_errors=True)
            shutil.copytree(theirs, ours)
            taken += 1
        if joined and known is not None:
            write_certificates(known, joined)
            if not (ours / CELL_FILE).exists() and (theirs / CELL_FILE).exists():
                shutil.copy(theirs / CELL_FILE, ours / CELL_FILE)
    return taken


def _take_figures(folder: Path, results: Path) -> int:
    taken = 0
    for found in json.loads(results.read_text())["cells"]:
        place = folder / found.pop("place")
        del found["data"], found["radii"]
        if read_cell(place) is None:
            place.mkdir(parents=True, exist_ok=True)
            write_cell(place, Cell(**{**found, "certified": tuple(found["certified"])}))
            taken += 1
    return taken


def _begun(place: Path) -> bool:
    """Whether there is a state of training, a checkpoint or, taken from a `results.json`, figures alone."""
    found = any((place / file).exists() for file in (CONFIG_FILE, CELL_FILE))
    return found or any((place / TRAINING).glob(f"**/{STATE_FILE}"))
