"""A results log that was cut, edited, swapped or doubled is found, and what is whole of it is kept."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spacte_workers.batch.chains import ChangedLogError, check_log, cut_changed, whole_lines
from spacte_workers.batch.results import ResultsLog
from spacte_workers.cli import verify_app

COUNT = 6


@pytest.fixture
def log(tmp_path: Path) -> tuple[Path, str]:
    """A log of six lines, and the hash of its last."""
    path = tmp_path / "results.ndjson"
    written = ResultsLog(path)
    for i in range(COUNT):
        written.append([{"index": i, "outcome": "abstained", "radius": 0.0}])
    written.close()
    check_log(path, COUNT, written.end.sha256)
    return path, written.end.sha256


CHANGES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "cut in a line": lambda lines: [*lines[:5], lines[5][:-7]],
    "cut after a line": lambda lines: lines[:4],
    "emptied": lambda lines: [],
    "edited": lambda lines: [*lines[:2], lines[2].replace(b"0.0", b"9.0"), *lines[3:]],
    "edited in the last line": lambda lines: [*lines[:5], lines[5].replace(b"0.0", b"9.0")],
    "swapped": lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
    "doubled": lambda lines: [*lines[:3], lines[2], *lines[3:]],
    "doubled at the end": lambda lines: [*lines, lines[5]],
    "without its chain": lambda lines: [plain(line) for line in lines],
}


def plain(line: bytes) -> bytes:
    record = json.loads(line)
    del record["previous_sha256"]
    return json.dumps(record).encode() + b"\n"


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_found_and_cut_off(log: tuple[Path, str], change: str) -> None:
    path, sha256 = log
    function = CHANGES[change]
    path.write_bytes(b"".join(function(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(ChangedLogError):
        check_log(path, COUNT, sha256)
    counts, last = cut_changed(path, COUNT, sha256)
    kept = [line.record["index"] for line in whole_lines(path)]
    assert kept == list(range(len(kept)))
    assert sum(counts.values()) == len(kept)
    check_log(path, len(kept), last)
    again = ResultsLog(path)
    again.append([{"index": i, "outcome": "abstained", "radius": 0.0} for i in range(len(kept), COUNT)])
    again.close()
    check_log(path, COUNT, sha256)  # the same lines again, and the same hash


def test_a_log_of_an_older_driver_is_read_and_carried_on(tmp_path: Path) -> None:
    path = tmp_path / "results.ndjson"
    path.write_text('{"index":4,"outcome":"errored"}\n{"index":5,"outcome":"errored"}\n')
    check_log(path, 2, None)
    log = ResultsLog(path)
    log.append([{"index": 6, "outcome": "errored"}, {"index": 7, "outcome": "errored"}])
    log.close()
    check_log(path, 4, log.end.sha256)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[1].replace(b"5", b"3"), *lines[2:]]))
    with pytest.raises(ChangedLogError, match="from line 2 on"):
        check_log(path, 4, log.end.sha256)


def test_verify_finds_a_change(log: tuple[Path, str]) -> None:
    path, _ = log
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[3], lines[2], *lines[4:]]))
    result = CliRunner().invoke(verify_app, [str(path)])
    assert result.exit_code == 1
    assert "from line 2 on, lines are torn or do not follow" in result.output
