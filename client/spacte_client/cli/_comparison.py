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
    table = _runs(runs, radii, confidence, form)
    if form != "table":
        write = {"csv": _csv, "markdown": _markdown, "latex": _latex}[form]
        typer.echo("\n\n".join(write(rows) for rows in (table, _pairs(pairs)) if len(rows) > 1))
        return
    wide = len(runs) > MOST_COLUMNS
    shown = [pair for pair in pairs if not wide or (pair.first == runs[0].name and pair.radius is None)]
    for block in _blocks(table) if wide else [table]:
        _print_table(block)
    _print_table(_pairs(shown))
    if wide and pairs:
        typer.echo("--format csv or json has the differences at each radius, and those of all pairs.")
    if not wide:
        typer.echo(f"Brackets: {confidence:.0%} Clopper-Pearson intervals, each by itself.")


def _print_table(rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    if len(rows) > 1:
        shown = Table(box=None, pad_edge=False)
        for i, title in enumerate(rows[0]):
            shown.add_column(title, justify="right" if i else "left", overflow="fold")
        for row in rows[1:]:
            shown.add_row(*row)
        Console(highlight=False, markup=False).print(shown)


def _blocks(rows: list[list[str]]) -> list[list[list[str]]]:
    """A table cut into tables that fit the terminal, each with the first column."""
    from rich.console import Console

    room = Console().width
    widths = [max(len(row[i]) for row in rows) + 2 for i in range(len(rows[0]))]  # two spaces between columns
    blocks: list[list[int]] = [[]]
    for i in range(1, len(widths)):
        if blocks[-1] and widths[0] + sum(widths[j] for j in blocks[-1]) + widths[i] > room:
            blocks.append([])
        blocks[-1].append(i)
    return [[[row[0], *(row[i] for i in block)] for row in rows] for block in blocks]


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
