"""A comparison of runs as text: a table, CSV, Markdown or LaTeX."""

import csv
import io
from collections.abc import Sequence

import typer

from spacte_client.analysis.accuracy import Run, curve_at
from spacte_client.analysis.pairs import PairedDifference

MOST_COLUMNS = 3
"""Runs side by side. Chosen: more, with their intervals, do not fit 80 columns; then each run has a row."""


def print_comparison(
    runs: Sequence[Run], radii: Sequence[float], pairs: Sequence[PairedDifference], confidence: float, form: str
) -> None:
    """Print the runs, and below them the differences of each pair."""
    table, differences = _runs(runs, radii, confidence, form), _pairs(pairs)
    if form == "table":
        from rich.console import Console
        from rich.table import Table

        console = Console(highlight=False, markup=False)
        for rows in (table, differences):
            if len(rows) > 1:
                shown = Table(box=None, pad_edge=False)
                for i, title in enumerate(rows[0]):
                    shown.add_column(
                        title,
                        justify="right" if i else "left",
                        overflow="fold",
                        no_wrap=not i and len(runs) > MOST_COLUMNS and rows is table,
                    )
                for row in rows[1:]:
                    shown.add_row(*row)
                console.print(shown)
        if len(runs) <= MOST_COLUMNS:
            console.print(f"Brackets: {confidence:.0%} Clopper-Pearson intervals, each by itself.")
        return
    write = {"csv": _csv, "markdown": _markdown, "latex": _latex}[form]
    typer.echo("\n\n".join(write(rows) for rows in (table, differences) if len(rows) > 1))


def _runs(runs: Sequence[Run], radii: Sequence[float], confidence: float, form: str) -> list[list[str]]:
    curves = [curve_at(run, radii, confidence) for run in runs]
    if form != "table" or len(runs) > MOST_COLUMNS:
        head = ["certified accuracy", "images", "abstained", "ACR", *(f"at {r:g}" for r in radii)]
        return [head] + [
            [run.name, str(run.images), str(run.abstained), f"{run.acr:.3f}", *(f"{v:.1%}" for v in curve.values)]
            for run, curve in zip(runs, curves, strict=True)
        ]
    rows = [["certified accuracy", *(run.name for run in runs)]]
    rows.append(["images", *(f"{run.images:,}" for run in runs)])
    rows.append(["abstained", *(f"{run.abstained:,}" for run in runs)])
    rows.append(["ACR", *(f"{run.acr:.3f}" for run in runs)])
    for i, radius in enumerate(radii):
        rows.append([f"at {radius:g}", *(f"{c.values[i]:.1%} [{c.lows[i]:.1%}, {c.highs[i]:.1%}]" for c in curves)])
    return rows


def _pairs(pairs: Sequence[PairedDifference]) -> list[list[str]]:
    rows = [["first - second", "radius", "difference", "standard_error", "p_value"]]
    for pair in pairs:
        radius = "ACR" if pair.radius is None else f"{pair.radius:g}"
        figures = (f"{pair.difference:+.4f}", f"{pair.standard_error:.4f}", f"{pair.p_value:.2g}")
        rows.append([f"{pair.first} - {pair.second}", radius, *figures])
    return rows


def _csv(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().rstrip("\n")


def _markdown(rows: list[list[str]]) -> str:
    lines = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    lines.insert(1, ["---", *["---:"] * (len(rows[0]) - 1)])
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def _latex(rows: list[list[str]]) -> str:
    body = [" & ".join(c.replace("_", r"\_").replace("%", r"\%").replace("&", r"\&") for c in row) for row in rows]
    begin = rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}"
    return "\n".join([begin, *(rf"{row} \\" for row in body), r"\end{tabular}"])
