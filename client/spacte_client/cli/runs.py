"""`spacte plot` and `spacte compare`: certified accuracy of runs from their logs, as a picture or a table."""

import json
from pathlib import Path
from typing import Annotated

import typer

from spacte_client.analysis.accuracy import Run, curve_at, radius_grid
from spacte_client.analysis.logs import read_log

from . import _options as opt

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


def compare(
    logs: Logs,
    names: Names = None,
    step: Annotated[float, typer.Option("--step", help="Between two radii of the table.")] = 0.25,
    confidence: Confidence = 0.95,
    as_json: opt.AsJson = False,
) -> None:
    """Compare runs: ACR, and certified accuracy at a grid of radii with its exact interval."""
    if not step > 0:
        raise typer.BadParameter("is above 0, such as 0.25.", param_hint="--step")
    runs = read_runs(logs, names, confidence)
    radii = radius_grid(runs, step)
    if as_json:
        typer.echo(json.dumps([_document(run, radii, confidence) for run in runs]))
        return
    from rich.console import Console
    from rich.table import Table

    from spacte_client.rounding import rounded_down_text

    table = Table(box=None, pad_edge=False)
    table.add_column("certified accuracy")
    for run in runs:
        table.add_column(run.name, justify="right")
    table.add_row("images", *(f"{run.images:,}" for run in runs))
    table.add_row("abstained", *(f"{run.abstained:,}" for run in runs))
    table.add_row("ACR", *(rounded_down_text(run.acr, 3) for run in runs))
    curves = [curve_at(run, radii, confidence) for run in runs]
    for i, radius in enumerate(radii):
        cells = (f"{c.values[i]:.1%} [{c.lows[i]:.1%}, {c.highs[i]:.1%}]" for c in curves)
        table.add_row(f"at {radius:g}", *cells)
    console = Console(highlight=False, markup=False)
    console.print(table)
    console.print(f"Brackets: {confidence:.0%} Clopper-Pearson intervals, each by itself.")


def read_runs(logs: list[Path], names: list[str] | None, confidence: float) -> list[Run]:
    """The runs of the logs, by the names given."""
    if names and len(names) != len(logs):
        raise typer.BadParameter("give --name once for each log, or not at all.", param_hint="--name")
    if not 0 < confidence < 1:
        raise typer.BadParameter("is between 0 and 1, such as 0.95.", param_hint="--confidence")
    return [read_log(log, name) for log, name in zip(logs, names or [None] * len(logs), strict=True)]


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
