"""A cell on disk: its training run, the certificates that are done, and its figures.

FOLDER/CELL/                              the run and its checkpoint, as `spacte train` leaves them
FOLDER/CELL/certified-VERSION.jsonl       a `CertificateRecord` an image, for the checkpoint of that version: also
                                          what `spacte compare` and `spacte plot` read
FOLDER/CELL/cell.json                     the figures, once all images are certified
FOLDER/CELL/asked.json                    the recipe, its changes and the protocol that these are of
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from spacte_client.types import Precision
from spacte_core.checkpoint import CONFIG_FILE, Checkpoint, read_config
from spacte_core.files import replace_file
from spacte_core.flops import macs_per_sample
from spacte_trainer.callbacks import LOG_FILE, read_log
from spacte_trainer.runs import TRAINING
from spacte_trainer.state import STATE_FILE
from spacte_workers.statistics.metrics import average_certified_radius, certified_accuracy

from .tables import Setting

CELL_FILE = "cell.json"


@dataclass(frozen=True)
class Certified:
    """One image of a cell, as far as a table needs it; an abstention is not correct.

    Attributes:
        record: what its line says: a `CertificateRecord` as JSON, or in folders from before those were kept what the
            properties here are called.
    """

    record: Mapping[str, Any]

    @property
    def index(self) -> int:
        return self.record["index"]

    @property
    def correct(self) -> bool:
        return self.record["correct"]

    @property
    def radius(self) -> float:
        return self.record["radius"]

    @property
    def seconds(self) -> float:
        """From the image to its certificate."""
        return self.record["elapsed_ms"] / 1000 if "elapsed_ms" in self.record else self.record["seconds"]

    @property
    def precision(self) -> Precision | None:
        """Of the votes, part of the function certified; None in folders from before it was kept."""
        return self.record.get("precision")


@dataclass(frozen=True)
class Cell:
    """The figures of one trained model.

    Attributes:
        certified: certified accuracy at the protocol's radii, in [0, 1].
        radii: those; empty in folders from before they were kept.
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
    radii: tuple[float, ...] = ()

    @classmethod
    def of(
        cls, setting: Setting, seed: int, checkpoint: Checkpoint, certified: Sequence[Certified], precision: str
    ) -> "Cell":
        """The figures over the images that are certified, all of the protocol's or some."""
        correct, radii = [one.correct for one in certified], [one.radius for one in certified]
        return cls(
            method=setting.method,
            sigma=setting.sigma,
            seed=seed,
            images=len(certified),
            acr=average_certified_radius(correct, radii),
            certified=tuple(point.value for point in certified_accuracy(correct, radii, setting.protocol.radii)),
            train_seconds=checkpoint.config.metrics["train_seconds"],
            macs=macs_per_sample(checkpoint.net, checkpoint.config.model.input_shape),
            certify_seconds=sum(one.seconds for one in certified),
            precision=precision,
            radii=setting.protocol.radii,
        )

    def at(self, radii: tuple[float, ...], certified: Iterable[Certified]) -> "Cell":
        """The same figures at other radii."""
        correct, proven = zip(*((one.correct, one.radius) for one in certified), strict=True)
        points = certified_accuracy(correct, proven, radii)
        return replace(self, radii=radii, certified=tuple(point.value for point in points))

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Cell":
        """From `cell.json`, or from an entry of `results.json`, which has more fields."""
        values = {field.name: found[field.name] for field in fields(cls) if field.name != "radii"}
        lists = {"certified": tuple(found["certified"]), "radii": tuple(found.get("radii", ()))}
        return cls(**{**values, **lists})


def write_cell(folder: Path, cell: Cell) -> None:
    """Keep the figures."""
    replace_file(folder / CELL_FILE, (json.dumps(asdict(cell), indent=2) + "\n").encode())


def read_cell(folder: Path) -> Cell | None:
    """The figures of a finished cell, else None."""
    file = folder / CELL_FILE
    return Cell.from_json(json.loads(file.read_text())) if file.exists() else None


def finished(folder: Path, setting: Setting) -> Cell | None:
    """The figures of a finished cell at the radii of its setting, else None.

    Other radii than those it was finished at are read off its certificates, where all of them are there.
    """
    cell, radii = read_cell(folder), setting.protocol.radii
    if cell is None or (len(cell.certified) == len(radii) and cell.radii in ((), radii)):
        return cell
    file = certificates_file(folder)
    done = read_certificates(file).values() if file is not None else ()
    return cell.at(radii, done) if len(done) == cell.images else None


def certificates_path(folder: Path, version: str) -> Path:
    """Where the certificates of a checkpoint are; 16 hex digits tell the versions of one cell apart."""
    return folder / f"certified-{version[:16]}.jsonl"


def certificates_file(folder: Path) -> Path | None:
    """Where the certificates of the cell's checkpoint are; None while there is no checkpoint.

    Of a finished cell that was kept without its checkpoint, they are those that were kept with its figures.
    """
    if (folder / CONFIG_FILE).exists():
        return certificates_path(folder, read_config(folder)[1])
    kept = sorted(folder.glob(certificates_path(Path(), "*").name)) if (folder / CELL_FILE).exists() else []
    return kept[0] if len(kept) == 1 else None


def read_certificates(file: Path) -> dict[int, Certified]:
    """Certificates by image; a line that an interruption cut short is left out."""
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    whole = (json.loads(line) for line in lines if line.endswith("\n"))
    return {found["index"]: Certified(found) for found in whole}


def json_line(certified: Certified) -> str:
    """A line of the certificates' file."""
    return json.dumps(certified.record) + "\n"


def write_certificates(file: Path, certificates: dict[int, Certified]) -> None:
    """Replace the file as a whole."""
    replace_file(file, "".join(map(json_line, certificates.values())).encode())


def precision_of(certificates: Iterable[Certified]) -> Precision | Literal["auto"]:
    """The precision that a cell is certified at on every machine, because it was begun at it."""
    for one in certificates:
        if one.precision is not None:
            return one.precision
    return "auto"


def is_begun(folder: Path) -> bool:
    """Whether there is a state of training, a checkpoint or, taken from a `results.json`, figures alone."""
    found = any((folder / file).exists() for file in (CONFIG_FILE, CELL_FILE))
    return found or any((folder / TRAINING).glob(f"**/{STATE_FILE}"))


def epochs_done(folder: Path) -> int:
    """Epochs of all parts of the cell's training run that are done."""
    logs = (folder / TRAINING).glob(f"**/{LOG_FILE}")
    return sum(max((line["epoch"] for line in read_log(log)), default=0) for log in logs)
