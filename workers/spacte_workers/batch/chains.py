"""Each line of a results log names the SHA-256 of the line before, so that a changed log is found.

A log whose first lines name none was begun by an older driver: the chain begins where a driver of today went on.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Record = dict[str, Any]
"""One line: the fields of `spacte_client.types.JobRecord`."""

OUTCOMES: tuple[str, ...] = ("certified", "abstained", "errored")

FIRST = "0" * 64
"""What the first line names."""


class ChangedLogError(Exception):
    """The log is not what its driver wrote; the message says where, without a full stop."""


@dataclass(frozen=True, slots=True)
class Line:
    """A whole line that follows from the one before: its record, the offset of its end, and its SHA-256."""

    record: Record
    end: int
    sha256: str


def line_sha256(line: bytes) -> str:
    """SHA-256 of a line without its end."""
    return hashlib.sha256(line.removesuffix(b"\n")).hexdigest()


def whole_lines(path: Path) -> Iterator[Line]:
    """The lines up to the first that is torn, damaged or does not follow; none where there is no log yet.

    Where a line does not follow, the one before may be the one that was changed, and is left out, too.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        end, before, chained = 0, FIRST, False
        held: Line | None = None
        for line in file:
            end += len(line)
            record = _parse(line)
            named = record and record.get("previous_sha256")
            if record is None:
                break
            if (named or chained) and named != before:
                return
            if held is not None:
                yield held
            before, chained = line_sha256(line), bool(named)
            held = Line(record, end, before)
        if held is not None:
            yield held


def check_log(path: Path, count: int | None = None, sha256: str | None = None, *, ended: bool = True) -> None:
    """See that every line follows from the one before, and that the log holds what is known to be in it.

    Args:
        path: the log.
        count, sha256: lines that the log had at some time, and the hash of the last of them then.
        ended: nothing is written any more, so that what is behind the whole lines is a fault.

    Raises:
        ChangedLogError: it does not.
    """
    lines = end = 0
    seen: set[int] = set()
    for line in whole_lines(path):
        lines, end = lines + 1, line.end
        if line.record["index"] in seen:
            raise ChangedLogError(f"line {lines} holds image {line.record['index']} a second time")
        seen.add(line.record["index"])
        if lines == count and sha256 and line.sha256 != sha256:
            raise ChangedLogError(f"line {lines} is not the one that was written")
    if path.exists() and path.stat().st_size > end and (ended or (count or 0) > lines):
        raise ChangedLogError(f"from line {lines + 1} on, lines are torn or do not follow from each other")
    if count is not None and lines < count:
        raise ChangedLogError(f"it has {lines} lines, and {count} were written")


def _parse(line: bytes) -> Record | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(record, dict) and isinstance(record.get("index"), int) and record.get("outcome") in OUTCOMES
    return record if whole else None


def cut_changed(path: Path, count: int, sha256: str | None) -> tuple[dict[str, int], str]:
    """Cut a changed log to the longest part that is what its driver wrote; gives its counts and its last hash.

    Where the chain is whole but its end is not the one that is known, nothing vouches for any line, and all go.
    """
    counts: dict[str, int] = dict.fromkeys(OUTCOMES, 0)
    last, end = FIRST, 0
    seen: set[int] = set()
    for line in whole_lines(path):
        if line.record["index"] in seen:
            break
        seen.add(line.record["index"])
        if len(seen) == count and sha256 and line.sha256 != sha256:
            counts, last, end = dict.fromkeys(OUTCOMES, 0), FIRST, 0
            break
        counts[line.record["outcome"]] += 1
        last, end = line.sha256, line.end
    if path.exists():
        with path.open("r+b") as file:
            file.truncate(end)
            os.fsync(file.fileno())
    return counts, last
