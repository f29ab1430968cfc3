"""The durable log of finished images: one JSON object a line, on disk before it is counted.

A process killed while it writes leaves half a line, and a power cut perhaps a hole. Both can only lie in what was not
counted yet, so opening the log cuts it off at the first line that is not whole; those images are certified once more,
with the same noises and hence the same result.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from spacte_client.types import Certificate, CertificateRecord, ErrorRecord, JobError
from spacte_core.files import sync_folder
from spacte_workers.errors import BadParameterError

Record = dict[str, Any]
"""One line: the fields of `spacte_client.types.JobRecord`."""

OUTCOMES = ("certified", "abstained", "errored")


def certificate_record(index: int, true_label: int | None, custom_id: str | None, certificate: Certificate) -> Record:
    """The line of an image that has a certificate or an abstention."""
    record = CertificateRecord(
        **certificate.model_dump(),
        outcome="abstained" if certificate.abstained else "certified",
        index=index,
        custom_id=custom_id,
        true_label=true_label,
        correct=None if true_label is None else certificate.label == true_label,
    )
    return record.model_dump(mode="json")


def error_record(index: int, true_label: int | None, custom_id: str | None, error: Exception) -> Record:
    """The line of an image that cannot be certified; the error's message is one sentence for the caller."""
    code = "validation_failed" if isinstance(error, BadParameterError) else "bad_image"
    why = JobError(code=code, detail=str(error))
    record = ErrorRecord(index=index, custom_id=custom_id, true_label=true_label, error=why)
    return record.model_dump(mode="json")


class ResultsLog:
    """The log of one job, open for appending. One writer at a time: the caller holds the job's lock.

    Attributes:
        finished: indices of the images in the log.
        counts: how many are `certified`, `abstained` and `errored`.
        cut: bytes of unfinished lines that were cut off.
    """

    def __init__(self, path: Path) -> None:
        self.finished: set[int] = set()
        self.counts: dict[str, int] = dict.fromkeys(OUTCOMES, 0)
        end = 0
        for record, stop in _scan(path):
            self._count(record)
            end = stop
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.cut = os.fstat(self._fd).st_size - end
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
        """Close the file."""
        os.close(self._fd)

    def _count(self, record: Record) -> None:
        self.finished.add(record["index"])
        self.counts[record["outcome"]] += 1


def read_results(path: Path) -> Iterator[Record]:
    """Every whole record, in the order in which the images were finished; none where there is no log yet."""
    return (record for record, _ in _scan(path))


def _scan(path: Path) -> Iterator[tuple[Record, int]]:
    """Records and the offsets of their ends, up to the first line that is not whole."""
    if not path.exists():
        return
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
