"""A job on disk: its folder, the files in it, and the lock that keeps a second driver out.

job.json         what is certified, and with which noises: written once, before the first image
base.ndjson      the results of the base job, where it has one
results.ndjson   a line for every finished image, in the order in which they were finished
progress.json    how far it is; written anew about once a second
summary.json     what the images show together; results.tsv: the same lines in the field's columns
cancel           exists once someone has asked the driver to stop
lock             held by the driver at work
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from spacte_client.types import JobParams, Precision, SeedSource
from spacte_core.files import replace_file
from spacte_core.locks import try_lock

from .base_job import BaseJob
from .chains import cut_changed
from .inputs import InputSpec
from .progress import State
from .results import ResultsLog

SCHEMA_VERSION = 1
"""Of `job.json`; a change that an older or newer driver cannot read raises it."""


class JobFolderError(Exception):
    """The job cannot be run from this folder; the message is one sentence that names the remedy."""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """Everything that determines the results of a job.

    Attributes:
        id: the job's id; certificates are called `{id}-{index}`.
        model, model_version, checkpoint: the model's name, SHA-256 and folder.
        precision: arithmetic of the votes; part of the function, so a resumed job must keep it.
        input: the images.
        params: options of every certificate and attack; `seed` is the job's, drawn once.
        seed_source: who chose it.
        base: the job whose certificates it carries over.
    """

    id: str
    model: str
    model_version: str
    checkpoint: str
    precision: Precision | Literal["auto"]
    input: InputSpec
    params: JobParams
    seed_source: SeedSource = "service"
    base: BaseJob | None = None

    def to_json(self) -> dict[str, Any]:
        """As it stands in `job.json`."""
        return {"schema_version": SCHEMA_VERSION, **TypeAdapter(JobSpec).dump_python(self, mode="json")}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "JobSpec":
        """From what `to_json` gave.

        Raises:
            JobFolderError: another version of this software wrote it.
        """
        if value.get("schema_version") != SCHEMA_VERSION:
            raise JobFolderError("job.json is of another version: finish the job with the software that began it.")
        return TypeAdapter(cls).validate_python(value)


class JobFolder:
    """Paths and small files of one job."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec_file = path / "job.json"
        self.base_file = path / "base.ndjson"
        self.results_file = path / "results.ndjson"
        self.progress_file = path / "progress.json"
        self.summary_file = path / "summary.json"
        self.tsv_file = path / "results.tsv"
        self.cancel_file = path / "cancel"
        self.lock_file = path / "lock"

    def create(self, spec: JobSpec) -> None:
        """Make the folder and write `job.json`: the seed is on disk before any noise is drawn from it.

        Raises:
            JobFolderError: another job lives here.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if self.is_made():
            raise JobFolderError(f"{self.path} holds a job already: resume it, or choose another folder.")
        write_json(self.spec_file, spec.to_json())

    def is_made(self) -> bool:
        """Whether `create` was called."""
        return self.spec_file.exists()

    def fetch(self) -> None:
        """Bring what the driver needs to this machine, which has it all."""

    def refresh(self) -> None:
        """Bring `results_file` up to what the driver has written."""

    def renew(self) -> bool:
        """Make what `refresh` brings anew; whether that may have changed anything."""
        return False

    def open_log(self) -> ResultsLog:
        """The log, to be written by the driver that has the lock."""
        return ResultsLog(self.results_file)

    def take_base(self, base: "JobFolder") -> None:
        """Keep the results of a base job, whatever becomes of that one."""
        base.refresh()
        self.path.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(base.results_file, self.base_file)

    def ask_to_stop(self) -> None:
        """Have the driver stop between images."""
        if self.path.exists():
            self.cancel_file.touch()

    def withdraw_stop(self) -> None:
        """Let the next driver go on."""
        self.cancel_file.unlink(missing_ok=True)

    def cut(self, count: int, sha256: str | None) -> tuple[dict[str, int], str]:
        """Cut results that were changed to what is whole, see `cut_changed`; nobody writes them meanwhile."""
        found = cut_changed(self.results_file, count, sha256)
        self.progress_file.unlink(missing_ok=True)  # its counts are those of the whole log
        return found

    def remove(self) -> None:
        """Delete the job."""
        shutil.rmtree(self.path, ignore_errors=True)

    def spec(self) -> JobSpec:
        """What `create` wrote.

        Raises:
            JobFolderError: there is no job here.
        """
        value = read_json(self.spec_file)
        if value is None:
            raise JobFolderError(f"{self.path} holds no job: check the path.")
        return JobSpec.from_json(value)

    def progress(self) -> dict[str, Any]:
        """What the driver last said; empty before it began."""
        return read_json(self.progress_file) or {}

    def stopped_state(self) -> State:
        """The state of a job whose driver was stopped before the end."""
        return "cancelled" if self.cancel_file.exists() else "interrupted"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only driver. The system releases the lock however the process ends.

        Raises:
            JobFolderError: another driver is at work.
        """
        with self.lock_file.open("ab") as file:
            if not try_lock(file.fileno()):
                raise JobFolderError(f"Another driver is at work in {self.path}: wait for it, or stop it.")
            yield

    def at_work(self) -> bool:
        """Whether a driver holds the lock."""
        try:
            with self.lock_file.open("rb") as file:
                return not try_lock(file.fileno())
        except FileNotFoundError:
            return False


def same_job(begun: JobSpec, asked: JobSpec, *, seeded: bool) -> bool:
    """Whether a command asks for what a folder holds: all but the id, and the seed unless the command names one.

    Model and images are known by their SHA-256, wherever they lie by now.
    """
    if not seeded:
        params = asked.params.model_copy(update={"seed": begun.params.seed})
        asked = replace(asked, params=params, seed_source=begun.seed_source)
    if asked.precision == "auto":
        asked = replace(asked, precision=begun.precision)
    return replace(asked, id=begun.id) == in_places_of(asked, begun)


def in_places_of(asked: JobSpec, begun: JobSpec) -> JobSpec:
    """A job with its model and its images where a command finds them; the images must be the same bytes for that."""
    begun = replace(begun, checkpoint=asked.checkpoint)
    if begun.input.sha256 is None or begun.input.sha256 != asked.input.sha256:
        return begun
    location, root = asked.input.location, asked.input.data_root
    return replace(begun, input=replace(begun.input, location=location, data_root=root))


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replace a file as a whole: a reader sees the old or the new one, also after a crash."""
    replace_file(path, json.dumps(value, indent=1).encode() + b"\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """What `write_json` wrote, or None where there is no such file."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
