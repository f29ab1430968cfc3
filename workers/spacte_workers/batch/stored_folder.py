"""A job in an object store, as gateways see it: whatever machine its drivers run on, nobody shares a folder.

    jobs/JOB_ID/job.json           as in a job's folder; files are named from the top of the store
    jobs/JOB_ID/base.ndjson        the results of the base job, where it has one
    jobs/JOB_ID/parts/00000001     the results, see `parts`
    jobs/JOB_ID/attempts/0001      what the first driver says of itself, again and again, with its `progress.json`
    jobs/JOB_ID/cancel             exists once someone has asked the driver to stop
    jobs/JOB_ID/summary.json, results.tsv      as in a job's folder

The folder on a gateway's own disk holds copies, and can be made again from these.
"""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .base_job import BaseJob
from .job_folder import JobFolder, JobFolderError, JobSpec, write_json
from .object_store import ObjectStore
from .parts import Mirror, Parts

BEAT_S = 2.0
"""How often a driver says how far it is. Chosen: a gateway that looks once a second finds something new soon."""

LEASE_S = 15.0
"""A driver that has said nothing for so long is gone. Chosen: several times `BEAT_S`. One that lives all the same does
no harm: the next driver keeps it from writing."""


def job_name(job_id: str) -> str:
    """Of a job in the store."""
    return f"jobs/{job_id}"


def with_names(spec: JobSpec, root: Path) -> JobSpec:
    """A job whose files below `root` are named from there, as they are in the store. Others its driver has to see."""

    def name(path: str) -> str:
        return str(Path(path).relative_to(root)) if Path(path).is_relative_to(root) else path

    return _with_places(spec, name)


def with_paths(spec: JobSpec, root: Path) -> JobSpec:
    """A job from the store whose files are below `root`."""
    return _with_places(spec, lambda name: str(root / name))


def _with_places(spec: JobSpec, place: Callable[[str], str]) -> JobSpec:
    base: BaseJob | None = spec.base and replace(spec.base, checkpoint=place(spec.base.checkpoint))
    source = spec.input
    if source.kind == "file":
        source = replace(source, location=place(source.location), roots=())
    return replace(spec, checkpoint=place(spec.checkpoint), input=source, base=base)


@dataclass(frozen=True, slots=True)
class AttemptState:
    """What a driver says of itself.

    Attributes:
        attempt: which driver of the job it is; 0 where there was none.
        beat: another one whenever it says so again.
        over: it has come to its end.
        progress: the contents of its `progress.json`.
    """

    attempt: int = 0
    beat: str = ""
    over: bool = True
    progress: dict[str, Any] = field(default_factory=dict[str, Any])

    def to_bytes(self) -> bytes:
        """As it is stored."""
        return json.dumps({"beat": self.beat, "over": self.over, "progress": self.progress}).encode()


class Attempts:
    """What the drivers of all jobs say of themselves, and when this process heard of it. For several threads."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._heard: dict[str, tuple[str, float]] = {}
        self._known: dict[str, tuple[AttemptState, float]] = {}

    def latest(self, job: str) -> AttemptState:
        """Of the latest driver; its progress is that of the one before as long as it has none."""
        known = self._known.get(job)
        if known is not None and time.monotonic() - known[1] < BEAT_S / 2:
            return known[0]
        state = read_attempt(self._store, job)
        with self._lock:
            now, beat = time.monotonic(), f"{state.attempt}/{state.beat}"
            self._known[job] = state, now
            if state.over:
                self._heard.pop(job, None)
            elif self._heard.get(job, ("", 0.0))[0] != beat:
                self._heard[job] = beat, now
        return state

    def alive(self, job: str) -> bool:
        """Whether a driver has said something new within `LEASE_S`. Of one that was never heard of before: yes."""
        state = self.latest(job)
        with self._lock:
            heard = self._heard.get(job)
        return not state.over and heard is not None and time.monotonic() - heard[1] < LEASE_S

    def forget(self, job: str) -> None:
        """The job has changed otherwise, or is gone."""
        with self._lock:
            self._known.pop(job, None)
            self._heard.pop(job, None)


def attempt_name(job: str, attempt: int) -> str:
    """Of what a driver says of itself."""
    return f"{job}/attempts/{attempt:04}"


def read_attempt(store: ObjectStore, job: str) -> AttemptState:
    """What the latest driver says of itself, with the progress of the latest that has any."""
    latest = None
    for name in sorted(store.names(f"{job}/attempts"), reverse=True):
        found = store.get(name)
        if found is None:
            continue
        state = AttemptState(int(name.rpartition("/")[2]), **json.loads(found))
        latest = latest or state
        if state.progress:
            return replace(latest, progress=state.progress)
    return latest or AttemptState()


class StoredFolder(JobFolder):
    """A job in a store, and the folder of copies at `path`, which is DATA_DIR/jobs/JOB_ID."""

    def __init__(self, path: Path, store: ObjectStore, attempts: Attempts) -> None:
        super().__init__(path)
        self._store, self._attempts = store, attempts
        self._job = job_name(path.name)
        self._parts = Parts(store, self._job)
        self._mirror = Mirror(self._parts, self.results_file)

    def is_made(self) -> bool:
        """Whether the store has the job."""
        return self._store.get(f"{self._job}/job.json") is not None

    def create(self, spec: JobSpec) -> None:
        """Write `job.json` into the store.

        Raises:
            JobFolderError: another job lives there.
        """
        named = with_names(spec, self.path.parent.parent)
        if not self._store.create(f"{self._job}/job.json", json.dumps(named.to_json(), indent=1).encode()):
            raise JobFolderError(f"{self._store.url} holds a job {self.path.name} already: it is left alone.")

    def refresh(self) -> None:
        """Bring the copies of the job and of its results up to what the store has."""
        self._mirror.refresh()
        if not self.spec_file.exists() and self.is_made():
            self._store.download(f"{self._job}/base.ndjson", self.base_file)
            write_json(self.spec_file, self.spec().to_json())

    def renew(self) -> bool:
        """Make the copies again, as where another gateway has cut the results."""
        self._mirror.forget()
        self.refresh()
        return True

    def take_base(self, base: JobFolder) -> None:
        """Keep the results of a base job in the store."""
        super().take_base(base)
        self._store.upload(self.base_file, f"{self._job}/base.ndjson")

    def spec(self) -> JobSpec:
        """What `create` wrote, with the paths of this machine."""
        found = self._store.get(f"{self._job}/job.json")
        if found is None:
            raise JobFolderError(f"{self._store.url} holds no job {self.path.name}: check the name.")
        return with_paths(JobSpec.from_json(json.loads(found)), self.path.parent.parent)

    def progress(self) -> dict[str, Any]:
        """What the latest driver last said."""
        return self._attempts.latest(self._job).progress

    def at_work(self) -> bool:
        """Whether a driver has lately said that it lives."""
        return self._attempts.alive(self._job)

    def ask_to_stop(self) -> None:
        """Have the driver stop between images, within a few seconds."""
        self._store.put(f"{self._job}/cancel", b"")

    def withdraw_stop(self) -> None:
        """Let the next driver go on."""
        self._store.delete(f"{self._job}/cancel")

    def cut(self, count: int, sha256: str | None) -> tuple[dict[str, int], str]:
        """Cut results that were changed to what is whole, in the store, too."""
        self._mirror.forget()
        self._mirror.refresh()
        found = super().cut(count, sha256)
        self._parts.replace_all(self.results_file.read_bytes())
        self._store.delete_below(f"{self._job}/attempts")
        self._attempts.forget(self._job)
        self._mirror.forget()
        return found

    def remove(self) -> None:
        """Delete the job, here and in the store."""
        super().remove()
        self._store.delete_below(self._job)
        self._attempts.forget(self._job)
