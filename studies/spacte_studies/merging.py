"""Joins the folders of one study that several machines worked on: each cell is taken from where it is further."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from spacte_core.errors import UserError
from spacte_core.files import replace_file
from spacte_core.locks import LOCK_FILE, FolderLockedError, folder_lock

from . import cells
from .asked import Asked, difference, read_asked, write_asked
from .cells import CELL_FILE, Cell


class Merged(NamedTuple):
    """How many cells were further there, and which were left out.

    Attributes:
        busy: those that another process works on here.
        strange: those that the study does not have, or that were asked for with other settings there.
    """

    taken: int
    busy: list[str]
    strange: list[str]


class MergeError(UserError):
    """What is to be merged is no study's; the message is one sentence that names the remedy."""


def merge(folder: Path, other: Path, wanted: Mapping[str, Asked] | None = None) -> Merged:
    """Take from another study's folder the cells that are further there.

    Two copies of a cell with the same checkpoint share their certificates, those at one precision. Of a study's
    `results.json`, the figures of the cells that are not finished here are taken, without checkpoints.

    Args:
        folder: of our study.
        other: the other's folder or `results.json`.
        wanted: the cells that the study has, and what they are asked for; None: as each cell here was begun.

    Raises:
        MergeError: the file is no `results.json`.
    """
    if other.is_file():
        try:
            listed = {found["place"]: found for found in json.loads(other.read_text())["cells"]}
            known = {name: Cell.from_json(found) for name, found in listed.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MergeError(f"{other} is no results.json of `spacte reproduce`: name one, or a folder.") from error
        theirs = {name: found.get("asked") for name, found in listed.items()}
        return _each(folder, theirs, wanted, lambda ours: _take_figures(ours, known[ours.name], theirs[ours.name]))
    begun = [path for path in sorted(other.iterdir()) if path.is_dir() and cells.is_begun(path)]
    theirs = {path.name: read_asked(path) for path in begun}
    return _each(folder, theirs, wanted, lambda ours: _take(ours, other / ours.name))


def progress(folder: Path) -> tuple[bool, int, bool, int]:
    """How far a cell is, for comparing two copies of it."""
    file = cells.certificates_file(folder)
    certified = len(cells.read_certificates(file)) if file is not None else 0
    return (folder / CELL_FILE).exists(), certified, file is not None, cells.epochs_done(folder)


def _each(
    folder: Path, theirs: Mapping[str, Asked | None], wanted: Mapping[str, Asked] | None, take: Callable[[Path], bool]
) -> Merged:
    """Take cell after cell under its lock, those that were asked for alike."""
    taken, busy, strange = 0, list[str](), list[str]()
    for name, asked in theirs.items():
        known = read_asked(folder / name) if wanted is None else wanted.get(name)
        if (wanted is not None and known is None) or difference(asked, known):
            strange.append(name)
            continue
        try:
            with folder_lock(folder / name):
                taken += take(folder / name)
        except FolderLockedError:
            busy.append(name)
    return Merged(taken, busy, strange)


def _take(ours: Path, theirs: Path) -> bool:
    known, new = cells.certificates_file(ours), cells.certificates_file(theirs)
    if known is None or new is None or known.name != new.name:
        further = progress(theirs) > progress(ours)
        if further:
            _replace_contents(ours, theirs)
        return further
    here, there = cells.read_certificates(known), cells.read_certificates(new)
    precision = cells.precision_of([*here.values(), *there.values()])
    alike = {i: one for i, one in there.items() if one.precision in (None, precision)}
    joined = alike | here
    if joined:
        cells.write_certificates(known, joined)
        if alike == there and not (ours / CELL_FILE).exists() and (theirs / CELL_FILE).exists():
            replace_file(ours / CELL_FILE, (theirs / CELL_FILE).read_bytes())
    return len(joined) > len(here)


def _replace_contents(ours: Path, theirs: Path) -> None:
    """Put a copy of another cell in place of ours, but for the lock's file, which other processes may wait for."""
    for path in ours.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK_FILE:
            path.unlink()
    shutil.copytree(theirs, ours, ignore=shutil.ignore_patterns(LOCK_FILE), dirs_exist_ok=True)


def _take_figures(ours: Path, cell: Cell, asked: Asked | None) -> bool:
    unknown = cells.read_cell(ours) is None
    if unknown:
        if asked is not None:
            write_asked(ours, asked)
        cells.write_cell(ours, cell)
    return unknown
