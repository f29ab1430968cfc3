"""A cell on disk: its training run, the certificates that are done, and what they came to.

FOLDER/CELL/                              the run and its checkpoint, as `spacte train` leaves them
FOLDER/CELL/certified-VERSION.jsonl       a line an image, for the checkpoint of that version
FOLDER/CELL/cell.json                     the figures, once all images are certified
"""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from spacte_client.types import Precision
from spacte_core.checkpoint import CONFIG_FILE, read_config
from spacte_core.files import replace_file
from spacte_core.locks import LOCK_FILE, FolderLockedError, folder_lock
from spacte_trainer.callbacks import LOG_FILE, read_log
from spacte_trainer.runs import TRAINING
from spacte_trainer.state import STATE_FILE

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
    """The certificate of one image, as far as a table needs it; an abstention is not correct.

    Attributes:
        precision: of the votes, part of the function certified; None in folders of before it was kept.
    """

    index: int
    correct: bool
    radius: float
    seconds: float
    precision: Precision | None = None


@dataclass(frozen=True)
class Merged:
    """What came of taking another study's cells.

    Attributes:
        taken: how many were further there.
        busy: places that were left out, because another process is at work in them here.
    """

    taken: int = 0
    busy: list[str] = field(default_factory=list[str])


def write_cell(place: Path, cell: Cell) -> None:
    """Keep the figures."""
    replace_file(place / CELL_FILE, (json.dumps(asdict(cell), indent=2) + "\n").encode())


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
    replace_file(file, "".join(json.dumps(asdict(one)) + "\n" for one in certificates.values()).encode())


def precision_of(certificates: Iterable[Certified]) -> Precision | Literal["auto"]:
    """The precision that a cell is certified at on whatever machine, since it was begun at it."""
    for one in certificates:
        if one.precision is not None:
            return one.precision
    return "auto"


def epochs_done(place: Path) -> int:
    """Epochs of all parts of the cell's training run that are done."""
    logs = (place / TRAINING).glob(f"**/{LOG_FILE}")
    return sum(max((line["epoch"] for line in read_log(log)), default=0) for log in logs)


def progress(place: Path) -> tuple[bool, int, bool, int]:
    """How far a cell is, for comparing two copies of it."""
    file = certificates_file(place)
    certified = len(read_certificates(file)) if file is not None else 0
    return (place / CELL_FILE).exists(), certified, file is not None, epochs_done(place)


def merge(folder: Path, other: Path) -> Merged:
    """Take from another study's folder the cells that are further there.

    Two copies of a cell with the same checkpoint share their certificates, those at one precision. Of a study's
    `results.json`, the figures of the cells that are not finished here are taken, without checkpoints.
    """
    if other.is_file():
        figures = {found["place"]: found for found in json.loads(other.read_text())["cells"]}
        return _each(folder, list(figures), lambda place: _take_figures(place, figures[place.name]))
    begun = [path.name for path in sorted(other.iterdir()) if path.is_dir() and _begun(path)]
    return _each(folder, begun, lambda place: _take(place, other / place.name))


def _each(folder: Path, places: Iterable[str], take: Callable[[Path], bool]) -> Merged:
    """Take cell after cell, alone in each."""
    taken, busy = 0, list[str]()
    for name in places:
        try:
            with folder_lock(folder / name):
                taken += take(folder / name)
        except FolderLockedError:
            busy.append(name)
    return Merged(taken, busy)


def _take(ours: Path, theirs: Path) -> bool:
    known, new = certificates_file(ours), certificates_file(theirs)
    if known is None or new is None or known.name != new.name:
        further = progress(theirs) > progress(ours)
        if further:
            _replace_contents(ours, theirs)
        return further
    here, there = read_certificates(known), read_certificates(new)
    precision = precision_of([*here.values(), *there.values()])
    alike = {i: one for i, one in there.items() if one.precision in (None, precision)}
    joined = alike | here
    if joined:
        write_certificates(known, joined)
        if alike == there and not (ours / CELL_FILE).exists() and (theirs / CELL_FILE).exists():
            replace_file(ours / CELL_FILE, (theirs / CELL_FILE).read_bytes())
    return len(joined) > len(here)


def _replace_contents(ours: Path, theirs: Path) -> None:
    """Put a copy of another cell in place of ours, but for the lock: whoever waits for it waits for this file."""
    for path in ours.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK_FILE:
            path.unlink()
    shutil.copytree(theirs, ours, ignore=shutil.ignore_patterns(LOCK_FILE), dirs_exist_ok=True)


def _take_figures(place: Path, found: dict[str, Any]) -> bool:
    if read_cell(place) is not None:
        return False
    fields = {name: value for name, value in found.items() if name not in ("place", "data", "radii")}
    write_cell(place, Cell(**{**fields, "certified": tuple(found["certified"])}))
    return True


def _begun(place: Path) -> bool:
    """Whether there is a state of training, a checkpoint or, taken from a `results.json`, figures alone."""
    found = any((place / file).exists() for file in (CONFIG_FILE, CELL_FILE))
    return found or any((place / TRAINING).glob(f"**/{STATE_FILE}"))
