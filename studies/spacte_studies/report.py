"""The table of a study as Markdown and JSON: ours beside what was published; a cell that is missing says so."""

import json
import statistics
from dataclasses import asdict
from pathlib import Path

from spacte_core.checkpoint import CONFIG_FILE, load_checkpoint
from spacte_core.files import replace_file
from spacte_workers.statistics.bounds import clopper_pearson_lower, clopper_pearson_upper

from .asked import read_asked
from .cells import Cell, certificates_file, epochs_done, finished, read_certificates
from .pairing import paired
from .tables import Protocol, Setting, Table

UNPUBLISHED = "not published here"
TAIL = 0.025
"""Of the two-sided 95 % interval, on each side."""


def markdown(table: Table, folder: Path, command: str) -> str:
    """A part for each data set, noise level and protocol, a row a method."""
    lines = [f"# {table.title}", "", f"`{command}`", ""]
    parts = dict.fromkeys((s.data, s.sigma, s.protocol) for s in table.settings)
    for data, sigma, protocol in parts:
        settings = [s for s in table.settings if (s.data, s.sigma, s.protocol) == (data, sigma, protocol)]
        lines += [f"## {data}, sigma {sigma:g}", "", _settings(protocol), "", *_rows(settings, table.seeds, folder), ""]
        if beside := paired(settings, table.seeds, folder):
            lines += [*beside, ""]
    return "\n".join(lines)


def write(table: Table, folder: Path, command: str) -> Path:
    """`results.md` and `results.json` in the study's folder; returns the first."""
    cells = [
        {"place": place.name, "data": setting.data, **asdict(cell), "radii": setting.protocol.radii}
        | {"asked": read_asked(place)}
        for setting in table.settings
        for place in (folder / setting.folder_name(seed) for seed in table.seeds)
        if (cell := finished(place, setting)) is not None
    ]
    body = {"title": table.title, "command": command, "cells": cells}
    replace_file(folder / "results.json", (json.dumps(body, indent=2) + "\n").encode())
    replace_file(folder / "results.md", markdown(table, folder, command).encode())
    return folder / "results.md"


def _settings(protocol: Protocol) -> str:
    images = "All held-out images" if protocol.every == 1 else f"Every {protocol.every}th held-out image"
    return (
        f"{images}, n0 = {protocol.n0}, n = {protocol.n:,}, alpha = {protocol.alpha:g}. Mean ± standard deviation "
        "over the seeds; in brackets the 95 % Clopper-Pearson interval of certified accuracy (%) over the choice of "
        "test images, at that mean. Training: wall time of the fastest seed, in which other work counts least."
    )


def _rows(settings: list[Setting], seeds: tuple[int, ...], folder: Path) -> list[str]:
    """Headings and a row a setting; published values have a column where there are any."""
    radii = settings[0].protocol.radii
    compared = any(setting.published_acr is not None for setting in settings)
    headings = ["method", "seeds", "ACR", *(["published ACR"] if compared else [])]
    headings += [*(f"r = {r:g}" for r in radii), "training s", "MMACs"]
    rows = [headings, ["---"] * len(headings)]
    for setting in settings:
        found = [cell for seed in seeds if (cell := finished(folder / setting.folder_name(seed), setting))]
        count, acr = f"{len(found)} of {len(seeds)}", ""
        if not found:
            acr, found = begun(setting, seeds, folder)
            if found:
                count, acr = f"{count} ({acr})", ""
        row = [setting.row, count, acr or spread([cell.acr for cell in found], 3)]
        if compared:
            row.append(UNPUBLISHED if setting.published_acr is None else f"{setting.published_acr:.3f}")
        if found:
            row += [accuracy(found, position) for position in range(len(radii))]
            row += [f"{min(cell.train_seconds for cell in found):.0f}", f"{found[0].macs / 1e6:.2f}"]
        rows.append(row + [""] * (len(headings) - len(row)))
    return [f"| {' | '.join(row)} |" for row in rows]


def begun(setting: Setting, seeds: tuple[int, ...], folder: Path) -> tuple[str, list[Cell]]:
    """How far the first cell that was begun is, with its figures so far where images are certified."""
    for seed in seeds:
        cell_folder = folder / setting.folder_name(seed)
        file = certificates_file(cell_folder)
        if file is not None:
            done = list(read_certificates(file).values())
            whole = done and (cell_folder / CONFIG_FILE).exists()  # else it was kept without its weights
            cells = [Cell.of(setting, seed, load_checkpoint(cell_folder), done, "")] if whole else []
            return f"not done: {len(done)} images certified", cells
        if epochs := epochs_done(cell_folder):
            return f"not done: {epochs} epochs trained", []
    return "not run", []


def accuracy(cells: list[Cell], position: int) -> str:
    """Certified accuracy in percent at one radius, with its interval."""
    values = [cell.certified[position] for cell in cells]
    images = cells[0].images
    hits = round(statistics.mean(values) * images)
    low, high = clopper_pearson_lower(hits, images, TAIL), clopper_pearson_upper(hits, images, TAIL)
    return f"{spread([100 * value for value in values], 1)} [{100 * float(low):.1f}, {100 * float(high):.1f}]"


def spread(values: list[float], digits: int) -> str:
    """Mean and standard deviation, each to the nearest; the value alone where there is one."""
    text = f"{statistics.mean(values):.{digits}f}"
    return f"{text} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else text
