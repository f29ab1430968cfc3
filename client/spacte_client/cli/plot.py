"""`spacte plot`: certified accuracy against radius, as a picture."""

from pathlib import Path
from typing import Annotated

import typer

from spacte_client.analysis.accuracy import Run
from spacte_client.analysis.logs import read_log

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


def read_runs(logs: list[Path], names: list[str] | None, confidence: float) -> list[Run]:
    """The runs of the logs, by the names given."""
    if names and len(names) != len(logs):
        raise typer.BadParameter("give --name once for each log, or not at all.", param_hint="--name")
    if not 0 < confidence < 1:
        raise typer.BadParameter("is between 0 and 1, such as 0.95.", param_hint="--confidence")
    return [read_log(log, name) for log, name in zip(logs, names or [None] * len(logs), strict=True)]
