"""A job in an object store, as its driver sees it: copied to this machine, and every word of it written back."""

import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .inputs import MissingInputError, scheme_of
from .job_folder import JobFolder, JobFolderError, JobSpec, write_json
from .object_store import ObjectStore, StorageError
from .parts import Parts, StoredLog
from .results import ResultsLog
from .stored_folder import BEAT_S, AttemptState, attempt_name, job_name, read_attempt, with_paths

_log = logging.getLogger(__name__)

LAST_WORDS = 5
"""Times that a driver tries to say how it ended. Chosen: a store is back within seconds, or in minutes."""


@contextmanager
def opened_folder(place: str, attempt: int) -> Iterator[JobFolder]:
    """The folder of a job, for its driver.

    Args:
        place: the folder's path, or the URL of a job in an object store, STORE/jobs/JOB_ID.
        attempt: which driver of the job this is, from 1.

    Raises:
        StorageError: the store cannot be used.
    """
    if not scheme_of(place):
        yield JobFolder(Path(place))
        return
    url, _, job_id = place.rpartition("/jobs/")
    with tempfile.TemporaryDirectory(prefix="spacte-job-") as scratch:
        yield DrivenFolder(Path(scratch), ObjectStore(url), job_id, attempt)


class DrivenFolder(JobFolder):
    """The copy of a stored job that one driver works with.

    Args:
        root: an empty folder of this machine, which gets what the job needs.
        store, job_id: where the job is.
        attempt: which driver of the job this is, from 1.
    """

    def __init__(self, root: Path, store: ObjectStore, job_id: str, attempt: int) -> None:
        super().__init__(root / "jobs" / job_id)
        self.path.mkdir(parents=True, exist_ok=True)
        self._root, self._store, self._attempt = root, store, attempt
        self._job = job_name(job_id)
        self._parts = Parts(store, self._job)
        self._told = 0

    def is_made(self) -> bool:
        """Whether the store has the job."""
        return self._store.get(f"{self._job}/job.json") is not None

    def fetch(self) -> None:
        """Copy the job, its model and its images to this machine.

        Raises:
            JobFolderError: the model is not in the store.
            InputError: the images are not.
        """
        stored = JobSpec.from_json(json.loads(self._store.get(f"{self._job}/job.json") or b"{}"))
        for checkpoint in filter(None, (stored.checkpoint, stored.base and stored.base.checkpoint)):
            names = self._store.names(checkpoint)
            if not (names or Path(checkpoint).is_absolute()):
                raise JobFolderError(f"{self._store.url} holds no {checkpoint}: make a new job.")
            for name in names:
                self._store.download(name, self._root / name)
        place = stored.input.location
        kept = stored.input.kind == "file" and not Path(place).is_absolute()
        if kept and not self._store.download(place, self._root / place):
            raise MissingInputError(f"{self._store.url} holds no {place}: upload the file again, and make a new job.")
        self._store.download(f"{self._job}/base.ndjson", self.base_file)
        write_json(self.spec_file, with_paths(stored, self._root).to_json())
        if before := read_attempt(self._store, self._job).progress:
            write_json(self.progress_file, before)

    def open_log(self) -> ResultsLog:
        """The log, whose lines count once the store has them; from now on earlier drivers can write none."""
        return StoredLog(self._parts, self.results_file, self._attempt)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Say in the store that this driver lives, and how far it is, until the block ends."""
        over = threading.Event()
        saying = threading.Thread(target=self._say_again, args=(over,), name="job-storage", daemon=True)
        saying.start()
        try:
            yield
        finally:
            over.set()
            saying.join()
            self._say_the_last()

    def _say_again(self, over: threading.Event) -> None:
        warned = False
        while True:
            try:
                self._say()
                if self._store.get(f"{self._job}/cancel") is not None:
                    self.cancel_file.touch()
                warned = False
            except StorageError as error:
                if not warned:
                    _log.warning("the driver goes on without being heard: %s", error)
                warned = True
            if over.wait(BEAT_S):
                return

    def _say(self, *, over: bool = False) -> None:
        """Say that this driver lives, unless another one has taken over."""
        if self._parts.taken_over:
            return
        self._told += 1
        state = AttemptState(self._attempt, f"{os.getpid()}.{self._told}", over, self.progress())
        self._store.put(attempt_name(self._job, self._attempt), state.to_bytes())

    def _say_the_last(self) -> None:
        """Write what is exported, and that this driver is over. Where that cannot be, the next one does it."""
        for _ in range(LAST_WORDS):
            try:
                if not self._parts.taken_over:
                    for file in filter(Path.exists, (self.summary_file, self.tsv_file)):
                        self._store.upload(file, f"{self._job}/{file.name}")
                self._say(over=True)
            except StorageError as error:
                _log.warning("the driver cannot say how it ended: %s", error)
                time.sleep(BEAT_S)
            else:
                return
