"""`spacte plot` and `spacte compare`: certified accuracy of runs from their logs, as a picture or a table."""

import json
import re
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from spacte_client.analysis.accuracy import Run, curve_at, radius_grid
from spacte_client.analysis.logs import log_name, read_log
from spacte_client.analysis.pairs import paired_differences

from . import _options as opt
from ._comparison import print_comparison

Logs = Annotated[
    list[Path],
    typer.Argument(
        metavar="LOG", help="Logs with the columns idx label predict radius correct time, or NDJSON records of jobs."
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Option("--name", help="What to call a run, once for each log in order; else the file's name."),
]
Confidence = Annotated[float, typer.Option("--confidence", help="Of the intervals, in (0, 1).")]


def plot(
    logs: Logs,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The picture; without .png, .svg or .pdf both PNG and SVG are written.")
    ] = Path("certified-accuracy"),
    names: Names = None,
    title: Annotated[str | None, typer.Option("--title", help="Above the picture.")] = None,
    confidence: Confidence = 0.95,
) -> None:
    """Draw certified accuracy against radius, a curve and an interval band for each log."""
    runs = read_runs(logs, names, confidence)
    paths = [out] if out.suffix in (".png", ".svg", ".pdf") else [Path(f"{out}.png"), Path(f"{out}.svg")]
    try:
        from spacte_client.analysis.plotting import plot_runs

        plot_runs(runs, paths, confidence=confidence, title=title)
    except ImportError as error:
        raise typer.TyperException(
            "Plots need matplotlib; install it with `pip install 'spacte-client[plot]'`."
        ) from error
    except OSError as error:
        raise typer.TyperException(f"Cannot write {paths[0]}: {error.strerror}; check the folder.") from error
    for path in paths:
        typer.echo(path)


class Format(StrEnum):
    """Of the comparison that is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MARKDOWN = "markdown"
    LATEX = "latex"


def compare(
    logs: Logs,
    names: Names = None,
    step: Annotated[
        float | None,
        typer.Option("--step", help="Between two radii; else sigma where all file names end in the same, or 0.25."),
    ] = None,
    confidence: Confidence = 0.95,
    form: Annotated[Format, typer.Option("--format", help="Of what is printed.")] = Format.TABLE,
    as_json: opt.AsJson = False,
) -> None:
    """Compare runs: ACR, certified accuracy at a grid of radii, and differences paired by image."""
    if step is not None and not step > 0:
        raise typer.BadParameter("is above 0, such as 0.25.", param_hint="--step")
    runs = read_runs(logs, names, confidence)
    sigma = common_sigma(logs)
    radii = [i * sigma for i in range(4)] if step is None and sigma else radius_grid(runs, step or 0.25)
    if as_json:
        typer.echo(json.dumps([_document(run, radii, confidence) for run in runs]))
        return
    pairs, unpaired = paired_differences(runs, radii)
    if form is Format.JSON:
        documents = [_document(run, radii, confidence) for run in runs]
        found = {"runs": documents, "pairs": [asdict(pair) for pair in pairs], "not_paired": unpaired}
        typer.echo(json.dumps(found))
        return
    print_comparison(runs, radii, pairs, confidence, form.value)
    for sentence in unpaired:
        typer.echo(sentence, err=True)


def common_sigma(logs: list[Path]) -> float | None:
    """The noise level that every file name ends in, or None."""
    found = {match[1] if (match := re.search(r"(\d+\.\d+)$", log_name(log))) else "" for log in logs}
    return float(found.pop() or 0) or None if len(found) == 1 else None


def read_runs(logs: list[Path], names: list[str] | None, confidence: float) -> list[Run]:
    """The runs of the logs, by the names given."""
    if names and len(names) != len(logs):
        raise typer.BadParameter("give --name once for each log, or not at all.", param_hint="--name")
    if not 0 < confidence < 1:
        raise typer.BadParameter("is between 0 and 1, such as 0.95.", param_hint="--confidence")
    if not names:
        own = [log_name(log) for log in logs]
        names = [
            f"{log.resolve().parent.name}/{name}" if own.count(name) > 1 else name
            for log, name in zip(logs, own, strict=True)
        ]
    return [read_log(log, name) for log, name in zip(logs, names, strict=True)]


def _document(run: Run, radii: list[float], confidence: float) -> dict[str, object]:
    curve = curve_at(run, radii, confidence)
    points = zip(curve.radii, curve.values, curve.lows, curve.highs, strict=True)
    return {
        "name": run.name,
        "images": run.images,
        "abstained": run.abstained,
        "errored": run.errored,
        "acr": run.acr,
        "confidence": confidence,
        "certified_accuracy": [{"radius": r, "value": v, "low": low, "high": high} for r, v, low, high in points],
    }
