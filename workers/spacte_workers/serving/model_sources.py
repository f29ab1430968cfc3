"""Models that are elsewhere: fetched from below prefixes that the operator named, and pinned by their version.

A source is the URI of a checkpoint folder and the version that it must hold, `s3://bucket/models/digits#sha256=9f2c...`:
the SHA-256 over config.json and model.safetensors, as `spacte models` shows it. It is kept under that version, so that
it is fetched once, a folder is there as a whole or not at all, and another version takes nothing from those in use.
"""

import hashlib
import logging
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from spacte_core.files import place_folder, sync_folder
from spacte_workers.certification.set_calibration import CALIBRATION_FILE
from spacte_workers.diagnosis.files import FILE as DIAGNOSIS_FILE
from spacte_workers.errors import ModelLoadError

from .signed_models import SIGNATURE

VERSIONED = ("config.json", "model.safetensors")
"""What a version is the SHA-256 over, in this order."""
OPTIONAL = (CALIBRATION_FILE, DIAGNOSIS_FILE, SIGNATURE)

PART = ".part-"  # how the names of folders begin that are being filled or emptied
ABANDONED_S = 3600.0  # such a folder is a killed process's after that time; chosen: no download is silent for as long

_log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DIGITS = 64  # of a version
_PIN = re.compile(r"(?P<uri>[^#]+)#sha256=(?P<version>[0-9a-fA-F]{64})")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a checkpoint folder is, and the version that it must hold.

    Attributes:
        uri: of the folder, of a scheme that fsspec knows.
        version: SHA-256, 64 hexadecimal digits.
    """

    uri: str
    version: str

    @classmethod
    def parse(cls, text: str) -> "ModelSource":
        """A source as it is written, URI#sha256=VERSION. Raises ModelLoadError: it is none."""
        found = _PIN.fullmatch(text.strip())
        if found is None:
            raise ModelLoadError(
                f"{text[:200]!r} does not pin what is fetched: write URI#sha256=VERSION, with the 64 digits of the "
                "version that `spacte models --json` shows."
            )
        return cls(found["uri"].rstrip("/"), found["version"].lower())


def sources_of(text: str | None) -> dict[str, ModelSource]:
    """Sources by the model's name, from NAME=URI#sha256=VERSION,... . Raises ModelLoadError: it is not written so."""
    found: dict[str, ModelSource] = {}
    for entry in filter(None, map(str.strip, (text or "").split(","))):
        name, equals, source = entry.partition("=")
        if not equals:
            raise ModelLoadError(f"{entry[:200]!r} is not NAME=URI#sha256=VERSION: write it so.")
        check_name(name)
        found[name] = ModelSource.parse(source)
    return found


def check_name(name: str) -> None:
    """See that a name can be that of a folder. Raises ModelLoadError."""
    if not _NAME.fullmatch(name):
        raise ModelLoadError(f"{name[:64]!r} names no model: take letters, digits, `.`, `_` and `-`, 64 at most.")


class ModelSources:
    """The models that are fetched, by name. Everything here blocks: call it in threads.

    Args:
        folder: where they are kept, as VERSION/NAME.
        roots: prefixes below which sources must lie, such as s3://bucket/models.
        named: the source of each model; others are added by `fetch`.
        most_bytes: of all versions that are kept; None for any number.
    """

    def __init__(
        self,
        folder: Path,
        roots: Sequence[str],
        named: Mapping[str, ModelSource] | None = None,
        *,
        most_bytes: int | None = None,
    ) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._roots = list(roots)
        self._named = dict(named or {})
        self._fetching = threading.Lock()

    def names(self) -> list[str]:
        """Of the models that have a source."""
        return list(self._named)

    def source(self, name: str) -> ModelSource | None:
        """The source of a model."""
        return self._named.get(name)

    def place(self, name: str, source: ModelSource) -> Path:
        """Where a version is kept, or will be."""
        return self._folder / source.version / name

    def folders(self) -> list[Path]:
        """Of the models that have been fetched."""
        places = (self.place(name, source) for name, source in self._named.items())
        return [place for place in places if place.is_dir()]

    def check(self, source: ModelSource) -> None:
        """See that a source lies below one of the prefixes. Raises ModelLoadError."""
        from spacte_workers.batch.inputs import InputError, load_driver, parts_of

        try:
            parts = parts_of(source.uri)
            load_driver(parts[0])
        except InputError as error:
            raise ModelLoadError(f"The model source {source.uri[:200]!r} cannot be used: {error}") from None
        if not any(parts[: len(root)] == root for root in map(parts_of, self._roots)):
            allowed = ", ".join(self._roots)[:400] or "none"
            raise ModelLoadError(
                f"The model source {source.uri[:200]!r} lies below no prefix that is allowed ({allowed}): choose one "
                "that does, or have the operator name its prefix with --model-roots."
            )

    def fetch(self, name: str, source: ModelSource | None = None) -> Path:
        """The folder of a model, fetched unless it is there; a `source` that is given is the model's from then on.

        Raises:
            ModelLoadError: the source is not allowed or cannot be read, or holds another version.
        """
        source = source or self._named[name]
        check_name(name)
        self.check(source)
        place = self.place(name, source)
        with self._fetching:
            if not place.is_dir():
                self._fetch(source, place)
            os.utime(place)
        self._named[name] = source
        return place

    def make_room(self, used: Collection[str]) -> list[Path]:
        """Delete the versions longest unused until the rest fits; returns the folders of those deleted.

        Those `used` stay, and so do those that a model's name means now.
        """
        with self._fetching:
            used = {*used, *(source.version for source in list(self._named.values()))}
            self._delete_abandoned()
            kept = {place: _size(place) for place in self._folder.glob("*/*") if len(place.parent.name) == DIGITS}
            total, deleted = sum(kept.values()), list[Path]()
            for place in sorted(kept, key=_last_used):
                if place.parent.name in used:
                    with suppress(FileNotFoundError):
                        os.utime(place)
                elif self._most_bytes is not None and total > self._most_bytes:
                    self._delete(place)
                    total -= kept[place]
                    deleted.append(place)
                    _log.info(
                        "Version %s of model %s is deleted from %s: it is not used, and all have more than %d bytes.",
                        place.parent.name[:12],
                        place.name,
                        self._folder,
                        self._most_bytes,
                    )
        return deleted

    def _delete(self, place: Path) -> None:
        """Take a version away at once, so that nobody finds a part of it."""
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=PART) as scratch, suppress(OSError):
            place.rename(Path(scratch) / place.name)
            place.parent.rmdir()  # unless it has another name there, too

    def _delete_abandoned(self) -> None:
        old = time.time() - ABANDONED_S
        for part in self._folder.glob(f"{PART}*"):
            if _last_used(part) < old:
                shutil.rmtree(part, ignore_errors=True)

    def _fetch(self, source: ModelSource, place: Path) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._folder, prefix=PART) as scratch:
                copy = Path(scratch) / place.name
                copy.mkdir()
                self._download(source, copy)
                sync_folder(copy)
                place_folder(copy, place)
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise ModelLoadError(f"{source.uri[:200]} cannot be kept in {self._folder} ({why}): make room.") from error

    def _download(self, source: ModelSource, copy: Path) -> None:
        """Copy the files of a checkpoint, and see that they are the version that was pinned."""
        from spacte_workers.batch.inputs import MissingInputError

        digest = hashlib.sha256()
        for file in VERSIONED:
            self._copy(f"{source.uri}/{file}", copy / file, digest)
        if digest.hexdigest() != source.version:
            raise ModelLoadError(
                f"{source.uri[:200]} holds version {digest.hexdigest()}, not {source.version}: pin that one, or put "
                "the right files there."
            )
        for file in OPTIONAL:
            try:
                self._copy(f"{source.uri}/{file}", copy / file, hashlib.sha256())
            except ModelLoadError as error:
                (copy / file).unlink(missing_ok=True)
                if not isinstance(error.__cause__, MissingInputError):
                    raise

    def _copy(self, uri: str, path: Path, digest: "hashlib._Hash") -> None:
        from spacte_workers.batch.inputs import InputError, pieces

        try:
            with path.open("wb") as file:
                for piece in pieces(uri, self._roots, remedy="try again, or mend access to it"):
                    digest.update(piece)
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
        except InputError as error:
            raise ModelLoadError(f"The model cannot be fetched: {error}") from error


def _size(folder: Path) -> int:
    """Bytes of the files in a folder that may be deleted meanwhile."""
    total = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


def _last_used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0
