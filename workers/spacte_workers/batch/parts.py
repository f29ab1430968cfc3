"""A results log as numbered objects, since an object store appends nothing: what is written is never changed.

    jobs/JOB_ID/parts/00000001     a line about who wrote it, and then whole lines of the log

Part 2 is only ever made where there is none, by a driver that has read part 1. So drivers that believe to be the only
one cannot both go on: the first to make a part has made it, and the other one stops. A driver begins with a part that
has no lines; from then on every earlier driver, wherever it still runs, fails with its next part. What that one had
written before counts.
"""

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .job_folder import JobFolderError, read_json, write_json
from .object_store import TOGETHER, ObjectStore
from .results import ResultsLog

PART_EVERY_S = 1.0
"""Images that are finished within so long share a part. Chosen: a job of a day has fewer than 100,000 parts."""


class TakenOverError(JobFolderError):
    """Another driver writes the results now."""


@dataclass(frozen=True, slots=True)
class Part:
    """One object of a log.

    Attributes:
        number: from 1.
        attempt, driver: the driver that wrote it: which of the job it is, and what tells it from all others.
        lines: whole lines of the log; none in the part with which a driver begins.
    """

    number: int
    attempt: int
    driver: str
    lines: bytes = b""

    def to_bytes(self) -> bytes:
        """As it is stored."""
        head = {"part": self.number, "attempt": self.attempt, "driver": self.driver}
        return json.dumps(head).encode() + b"\n" + self.lines

    @classmethod
    def from_bytes(cls, data: bytes) -> "Part":
        """From what `to_bytes` gave."""
        head, _, lines = data.partition(b"\n")
        told = json.loads(head)
        return cls(told["part"], told["attempt"], told["driver"], lines)


class Parts:
    """The parts of one job's log.

    Args:
        store: where they are.
        job: the name of the job there, `jobs/JOB_ID`.

    Attributes:
        taken_over: a driver that had made parts before has found that another one makes them now.
    """

    def __init__(self, store: ObjectStore, job: str) -> None:
        self._store = store
        self.below = f"{job}/parts"
        self.taken_over = False

    def name(self, number: int) -> str:
        """Of a part."""
        return f"{self.below}/{number:08}"

    def read(self, number: int) -> Iterator[Part]:
        """The parts from a number on, in order, up to the last."""
        together = 1
        while True:
            for data in self._store.get_all([self.name(each) for each in range(number, number + together)]):
                if data is None:
                    return
                yield Part.from_bytes(data)
                number += 1
            together = min(TOGETHER, 2 * together)

    def create(self, part: Part) -> bool:
        """Write a part; False where another driver has written one of that number."""
        return self._store.create(self.name(part.number), part.to_bytes())

    def replace_all(self, lines: bytes) -> None:
        """Have the first part hold the whole log, and the others nothing, while nobody writes.

        All keep their numbers, so that no forgotten driver finds its next one free. Where this comes to an end in
        between, the log is not whole, and is repaired once more.
        """
        for number in range(1, 1 + len(self._store.names(self.below))):
            self._store.put(self.name(number), Part(number, 0, "", lines if number == 1 else b"").to_bytes())


class Mirror:
    """The lines of all parts in one file of this machine, which grows as they do.

    Args:
        parts: of the job.
        path: the file.
    """

    def __init__(self, parts: Parts, path: Path) -> None:
        self._parts = parts
        self._path = path
        self._state_file = path.with_suffix(".parts.json")

    def refresh(self) -> Part:
        """Add what was written since; gives the last part of all, or one of number 0 where there is none."""
        with self._alone():
            state = read_json(self._state_file) or {"number": 0, "attempt": 0, "driver": "", "bytes": 0}
            before = last = Part(state["number"], state["attempt"], state["driver"])
            size = state["bytes"]
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            with os.fdopen(fd, "r+b") as file:
                if os.fstat(fd).st_size != size:  # the end of a process that wrote here
                    file.truncate(size)
                file.seek(size)
                for part in self._parts.read(before.number + 1):
                    size, last = size + file.write(part.lines), part
                file.flush()
                os.fsync(fd)
            if last is not before:
                state = {"number": last.number, "attempt": last.attempt, "driver": last.driver, "bytes": size}
                write_json(self._state_file, state)
            return last

    def forget(self) -> None:
        """Begin anew: the parts were replaced."""
        with self._alone():
            self._state_file.unlink(missing_ok=True)
            self._path.unlink(missing_ok=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One thread of one process of this machine at a time."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_suffix(".parts.lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class StoredLog(ResultsLog):
    """A log whose lines count once a part of an object store has them.

    Args:
        parts: of the job.
        path: the file of this machine that has the same lines.
        attempt: which driver of the job this is, from 1.

    Raises:
        TakenOverError: a later driver has begun.
        JobFolderError: the parts do not follow from each other.
        StorageError: the store cannot be used.
    """

    def __init__(self, parts: Parts, path: Path, attempt: int) -> None:
        self._parts = parts
        self._written = -PART_EVERY_S
        self._last = _take_over(parts, Mirror(parts, path), attempt)
        super().__init__(path)
        if self.cut:
            self.close()
            raise JobFolderError("The results in the storage are not what drivers wrote: resume the job, to cut them.")

    def _publish(self, lines: bytes) -> None:
        time.sleep(max(0.0, self._written + PART_EVERY_S - time.monotonic()))
        part = Part(self._last.number + 1, self._last.attempt, self._last.driver, lines)
        if not self._parts.create(part):
            self._parts.taken_over = True
            raise TakenOverError("Another driver has taken the job over: this one stops.")
        self._last, self._written = part, time.monotonic()


def _take_over(parts: Parts, mirror: Mirror, attempt: int) -> Part:
    """Read all parts and make one without lines, which keeps earlier drivers from making any; gives that part."""
    driver = secrets.token_hex(8)
    while True:
        last = mirror.refresh()
        if last.attempt > attempt:
            parts.taken_over = True
            raise TakenOverError("A later driver has begun with the job: this one stops.")
        mine = Part(last.number + 1, attempt, driver)
        if parts.create(mine):
            mirror.refresh()
            return mine
