"""The durable log of finished images: one JSON object a line, on disk before it is counted.

A process killed while it writes leaves half a line, a machine that loses power perhaps a hole. Both can only
lie in what was not yet counted, so opening the log cuts it off at the first line that is not whole; those
images are certified once more, with the same noises and hence the same result.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from spacte_core.files import sync_folder

Record = dict[str, Any]
"""One line: the fields of `spacte_client.types.JobRecord`."""

OUTCOMES = ("certified", "abstained", "errored")


class ResultsLog:
    """The log of one job, open for appending. One writer at a time: the caller holds the job's lock.

    Attributes:
        finished: indices of the images in the log.
        counts: how many are `certified`, `abstained` and `errored`.
    """

    def __init__(self, path: Path) -> None:
        self.finished: set[int] = set()
        self.counts: dict[str, int] = dict.fromkeys(OUTCOMES, 0)
        end = 0
        if path.exists():
            for record, stop in _scan(path):
                self._count(record)
                end = stop
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.cut = os.fstat(self._fd).st_size - end
        """Bytes of unfinished lines that were cut off."""
        if self.cut:
            os.ftruncate(self._fd, end)
        os.lseek(self._fd, end, os.SEEK_SET)
        os.fsync(self._fd)
        # A file that was created is only there for certain once its folder is written.
        sync_folder(path.parent)

    def append(self, records: Sequence[Record]) -> None:
        """Write records and wait until the disk has them; only then are they counted.

        Raises:
            ValueError: an image is in the log already.
            OSError: the disk is full or gone; nothing is counted.
        """
        for record in records:
            if record["index"] in self.finished:
                raise ValueError(f"image {record['index']} is certified twice")
        data = memoryview(b"".join(json.dumps(r, separators=(",", ":")).encode() + b"\n" for r in records))
        while data:
            data = data[os.write(self._fd, data) :]
        os.fsync(self._fd)
        for record in records:
            self._count(record)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)

    def _count(self, record: Record) -> None:
        self.finished.add(record["index"])
        self.counts[record["outcome"]] += 1


def read_results(path: Path) -> Iterator[Record]:
    """Every whole record, in the order in which the images were finished; none where there is no log yet."""
    if path.exists():
        for record, _ in _scan(path):
            yield record


def _scan(path: Path) -> Iterator[tuple[Record, int]]:
    """Records and the offsets of their ends, up to the first line that is not whole."""
    with path.open("rb") as file:
        end = 0
        for line in file:
            end += len(line)
            record = _parse(line)
            if record is None:
                return
            yield record, end


def _parse(line: bytes) -> Record | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(record, dict) and isinstance(record.get("index"), int) and record.get("outcome") in OUTCOMES
    return record if whole else None
