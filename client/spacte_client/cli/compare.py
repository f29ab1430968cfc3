"""`spacte compare`: certified accuracy of several runs, as a table."""

import json
from typing import Annotated

import typer

from . import _options as opt
from .plot import Confidence, Logs, Names, read_runs


def compare(
    logs: Logs,
    names: Names = None,
    step: Annotated[float, typer.Option("--step", help="Between two radii of the table.")] = 0.25,
    confidence: Confidence = 0.95,
    as_json: opt.AsJson = False,
) -> None:
    """Compare runs: ACR, and certified accuracy at a grid of radii with its exact interval."""
    from spacte_client.analysis.accuracy import curve_at, radius_grid
    from spacte_client.rounding import rounded_down_text

    if not step > 0:
        raise typer.BadParameter("is above 0, such as 0.25.", param_hint="--step")
    runs = read_runs(logs, names, confidence)
    radii = radius_grid(runs, step)
    curves = [curve_at(run, radii, confidence) for run in runs]
    if as_json:
        documents = [
            {
                "name": run.name,
                "images": run.images,
                "abstained": run.abstained,
                "errored": run.errored,
                "acr": run.acr,
                "confidence": confidence,
                "certified_accuracy": [
                    {"radius": radius, "value": value, "low": low, "high": high}
                    for radius, value, low, high in zip(curve.radii, curve.values, curve.lows, curve.highs, strict=True)
                ],
            }
            for run, curve in zip(runs, curves, strict=True)
        ]
        typer.echo(json.dumps(documents))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("certified accuracy")
    for run in runs:
        table.add_column(run.name, justify="right")
    table.add_row("images", *(f"{run.images:,}" for run in runs))
    table.add_row("abstained", *(f"{run.abstained:,}" for run in runs))
    table.add_row("ACR", *(rounded_down_text(run.acr, 3) for run in runs))
    for i, radius in enumerate(radii):
        cells = (f"{c.values[i]:.1%} [{c.lows[i]:.1%}, {c.highs[i]:.1%}]" for c in curves)
        table.add_row(f"at {radius:g}", *cells)
    console = Console(highlight=False, markup=False)
    console.print(table)
    console.print(f"Brackets: {confidence:.0%} Clopper-Pearson intervals, each by itself.")
