"""Reading certification logs: the field's tab-separated files, and the records of this service's jobs.

The field's columns are `idx label predict radius correct time` (Cohen et al. 2019), where `predict` is -1 for
an abstention, `correct` is 0 or 1, and `time` is `h:mm:ss.micro` or seconds. A first line of names, perhaps after `#`,
says where each column is; commas or spaces may stand for tabs. A file whose first character is `{` is read as NDJSON:
one `CertificateRecord` or `ErrorRecord` a line.
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spacte_client._exceptions import SpacteError

from .accuracy import Row, Run, Votes

COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
RADIUS_MOST = 1e6
"""Chosen: doubles prove at most some forty sigma, also where pixels are from 0 to 255."""

SUFFIXES = (".csv", ".json", ".jsonl", ".log", ".ndjson", ".tsv", ".txt")


class LogError(SpacteError, ValueError):
    """The log cannot be read; the message is one sentence that names the line."""


def read_log(path: str | Path, name: str | None = None) -> Run:
    """A run from its log, a TSV or NDJSON file, called `name` or like the file.

    Raises:
        LogError: the file cannot be read, has no rows, or a row is not as it should be.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise LogError(f"Cannot read {path}: {error.strerror or error}; check the path.") from error
    except UnicodeDecodeError as error:
        raise LogError(f"{path} is not text; pass a TSV or NDJSON log.") from error
    ndjson = text.lstrip().startswith("{")
    columns: tuple[str, ...] = COLUMNS
    rows: dict[int, Row] = {}
    errored = 0
    for number, line in enumerate(text.splitlines(), 1):
        if not ndjson and (named := _header(line)):
            columns = named
            if wrong := [name for name in COLUMNS[:-1] if columns.count(name) != 1]:
                has = "has no column" if wrong[0] not in columns else "names more than once the column"
                raise LogError(f"{path} {has} {wrong[0]}; pass a log with the columns {' '.join(COLUMNS)}.")
            continue
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            row = _ndjson_row(line) if ndjson else _tsv_row(line, columns)
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise LogError(
                f"{path}, line {number}, is not a row with the columns {' '.join(COLUMNS)} ({error}); "
                "check that the log is whole."
            ) from error
        if row is None:
            errored += 1
        elif row.index in rows:
            raise LogError(f"{path}, line {number}, holds image {row.index} a second time; keep one row an image.")
        else:
            rows[row.index] = row
    if not rows:
        raise LogError(f"{path} holds no certified images; check that it is a log of a run that has begun.")
    return Run(name or log_name(path), tuple(rows.values()), errored)


def log_name(path: Path) -> str:
    """The file's name without a log's ending; `sigma_0.25` keeps its number."""
    return path.stem if path.suffix.lower() in SUFFIXES else path.name


def seconds(text: str) -> float:
    """`0:01:23.456789` or `83.456789` as seconds; days as Python's timedelta prints them (`1 day, 0:00:01`)."""
    days, _, clock = text.strip().rpartition(", ")
    total = 86_400.0 * int(days.split()[0]) if days else 0.0
    for power, part in enumerate(reversed(clock.split(":"))):
        total += float(part) * 60**power
    return total


def _fields(line: str) -> list[str]:
    """The fields of a line between tabs, else between commas, perhaps in quotes, else between spaces."""
    if "\t" in line:
        return [field.strip() for field in line.split("\t")]
    if line.count(",") < len(COLUMNS) - 2:
        return line.split()
    try:
        return [field.strip() for field in next(csv.reader([line], skipinitialspace=True))]
    except csv.Error:  # a field of millions of characters
        return []


def _header(line: str) -> tuple[str, ...]:
    """The names of the columns, where the line is one of names; else empty. After `#` all have to be there."""
    shown = line.strip()
    names = tuple(name.strip("\"'").lower() for name in _fields(shown.lstrip("# \t")))
    names = tuple("idx" if name == "index" else name for name in names)
    if shown.startswith("#"):
        return names if names and names[0] in COLUMNS and set(COLUMNS[:-1]) <= set(names) else ()
    return names if {"idx", "label"} <= set(names) else ()


def _tsv_row(line: str, columns: Sequence[str]) -> Row:
    fields = _fields(line)
    found = dict(zip(columns, fields, strict=False))
    if not set(COLUMNS[:-1]) <= found.keys():
        raise ValueError(f"{len(fields)} columns")
    label, predict = int(found["label"]), -1 if found["predict"].upper() == "ABSTAIN" else int(found["predict"])
    radius, correct, time = float(found["radius"]), int(found["correct"]), found.get("time")
    row = Row(int(found["idx"]), label, predict, radius, correct == 1, seconds(time) if time else None)
    _check(row, correct)
    return row


def _check(row: Row, correct: object) -> None:
    """Raise ValueError for what cannot be, and where `correct`, if it is there, is not what the classes say."""
    if row.index < 0:
        raise ValueError(f"index {row.index} is no image")
    if row.label < 0:
        raise ValueError(f"label {row.label} is no class, and without one there is no accuracy")
    if row.predict < -1:
        raise ValueError(f"predict {row.predict} is no class, and -1 an abstention")
    if correct is not None and correct != (row.label == row.predict):
        raise ValueError(f"correct {correct} contradicts label {row.label} and predict {row.predict}")
    if not 0 <= row.radius <= RADIUS_MOST:
        raise ValueError(f"radius {row.radius} cannot be")
    if row.predict == -1 and row.radius > 0:
        raise ValueError(f"radius {row.radius} contradicts an abstention")


def _ndjson_row(line: str) -> Row | None:
    record: dict[str, Any] = json.loads(line)
    if record["outcome"] == "errored":
        return None
    if record.get("true_label") is None:
        raise ValueError("no true_label, without which there is no accuracy")
    label, predict = int(record["true_label"]), int(record["label"])
    elapsed = float(record["elapsed_ms"]) / 1000
    radius, votes = float(record["radius"]), _votes(record)
    row = Row(int(record["index"]), label, predict, radius, label == predict, elapsed, votes)
    _check(row, record.get("correct"))
    return row


def _votes(record: dict[str, Any]) -> Votes:
    """The class that was chosen, and the votes for it; of two classes with as many selection votes the first."""
    selection: list[int] = record["selection_counts"]
    label = record["label"] if record["label"] >= 0 else selection.index(max(selection))
    rules = ("target_radius", "tolerance", "deadline_ms")
    return Votes(
        label,
        int(record["counts"][label]),
        int(record["n"]),
        float(record["alpha"]),
        float(record["sigma"]),
        float(record.get("noise_error", 0)),
        record["n"] < record["n_max"] or record["looks"] > 1 or any(record.get(rule) is not None for rule in rules),
        record.get("carried") is not None,
        record.get("stop_reason") == "incorrect",
    )
