"""The durable log of finished images: one JSON object a line, on disk before it is counted.

A process killed while it writes leaves half a line, and a power cut perhaps a hole. Both can only lie in what was not
counted yet, so opening the log cuts it off at the first line that is not whole; those images are certified once more,
with the same noises and hence the same result.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from spacte_client.types import Certificate, CertificateRecord, ErrorRecord, JobError
from spacte_core.files import sync_folder
from spacte_workers.errors import BadParameterError

from .chains import FIRST, OUTCOMES, Record, line_sha256, whole_lines


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


def certificate_in(record: Record) -> Certificate:
    """The certificate in a line, without what the job adds to it."""
    return Certificate.model_validate({name: record[name] for name in Certificate.model_fields if name in record})


def error_record(index: int, true_label: int | None, custom_id: str | None, error: Exception) -> Record:
    """The line of an image that cannot be certified; the error's message is one sentence for the caller."""
    code = "validation_failed" if isinstance(error, BadParameterError) else "bad_image"
    why = JobError(code=code, detail=str(error))
    record = ErrorRecord(index=index, custom_id=custom_id, true_label=true_label, error=why)
    return record.model_dump(mode="json")


@dataclass(frozen=True, slots=True)
class LogEnd:
    """What a log holds so far: images by outcome, and the SHA-256 of its last line."""

    counts: dict[str, int]
    sha256: str


class ResultsLog:
    """The log of one job, open for appending. One writer at a time: the caller holds the job's lock.

    Attributes:
        finished: indices of the images in the log.
        end: how many are `certified`, `abstained` and `errored`, and the hash of the last line; replaced as a whole.
        cut: bytes that were cut off: of unfinished lines, and from the first line on that does not follow.
    """

    def __init__(self, path: Path) -> None:
        self.finished: set[int] = set()
        self.end = LogEnd(dict.fromkeys(OUTCOMES, 0), FIRST)
        end = 0
        for line in whole_lines(path):
            if line.record["index"] in self.finished:
                break
            self._count([line.record], line.sha256)
            end = line.end
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
        lines, last = list[bytes](), self.end.sha256
        for record in records:
            lines.append(json.dumps({**record, "previous_sha256": last}, separators=(",", ":")).encode() + b"\n")
            last = line_sha256(lines[-1])
        data = memoryview(b"".join(lines))
        start = os.lseek(self._fd, 0, os.SEEK_CUR)
        try:
            while data:
                data = data[os.write(self._fd, data) :]
            os.fsync(self._fd)
            self._publish(b"".join(lines))
        except OSError:
            with suppress(OSError):  # opening the log again cuts what is left of the lines
                os.ftruncate(self._fd, start)
                os.lseek(self._fd, start, os.SEEK_SET)
            raise
        self._count(records, last)

    def _publish(self, lines: bytes) -> None:
        """Do what else has to be done before lines count. Raises OSError: it cannot be done."""

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    @property
    def counts(self) -> dict[str, int]:
        """How many images are `certified`, `abstained` and `errored`."""
        return self.end.counts

    def _count(self, records: Sequence[Record], last_sha256: str) -> None:
        counts = dict(self.end.counts)
        for record in records:
            self.finished.add(record["index"])
            counts[record["outcome"]] += 1
        self.end = LogEnd(counts, last_sha256)


def read_results(path: Path) -> Iterator[Record]:
    """Every whole record, in the order in which the images were finished; none where there is no log yet."""
    return (line.record for line in whole_lines(path))
