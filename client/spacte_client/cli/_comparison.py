"""A comparison of runs as text: a table, CSV, Markdown or LaTeX."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import typer

from spacte_client.analysis.accuracy import Run, curve_at, share_above
from spacte_client.analysis.pairs import PairedDifference

MOST_COLUMNS = 3
"""Runs side by side. Chosen: more, with their intervals, do not fit 80 columns; then each run has a row."""

LONGEST_NAME = 30
"""Characters of a run's name in a table. Chosen: with longer ones figures do not fit; then names stand above it."""

LATEX = str.maketrans(
    {c: rf"\{c}" for c in "_%&#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$"}
    | {"[": "{[}", "*": "{*}"}  # which the end of the row above would take for its own
)
"""What LaTeX reads otherwise than it stands."""

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
"""Probabilities at which the distribution of p_A is told. Chosen: denser where radii grow fastest."""


DIFFERENCE = ("difference", "standard_error", "p_value")
CSV_COLUMNS: tuple[str, ...] = ("run", "minus", "class", "measure", "at", "value", "low", "high", *DIFFERENCE)
"""Of the CSV: a row is a figure of a run, or, with `minus`, the difference of two."""


@dataclass(frozen=True)
class Comparison:
    """What is printed.

    Attributes:
        runs: at least one.
        radii: where certified accuracy is told.
        pairs: differences of the runs.
        confidence: of the intervals.
        sigma: noise level, where the distribution of p_A is asked for.
        classes: whether each class is told, too.
    """

    runs: Sequence[Run]
    radii: Sequence[float]
    pairs: Sequence[PairedDifference]
    confidence: float
    sigma: float | None = None
    classes: bool = False


def print_comparison(found: Comparison, form: str) -> None:
    """Print the runs, below them what was asked for besides, and the differences of each pair."""
    runs, pairs = found.runs, found.pairs
    if form == "csv":
        typer.echo(_csv(found), nl=False)
        return
    if form != "table":
        write, tables = {"markdown": _markdown, "latex": _latex}[form], _tables(found, form)
        typer.echo("\n\n".join(write(rows) for rows in (*tables, _pairs(pairs)) if len(rows) > 1))
        return
    _print_terminal(_short(found) if len(runs) > 1 else found)


def _short(found: Comparison) -> Comparison:
    """The comparison with long names printed once, and runs called by number after that."""
    names = [run.name for run in found.runs]
    if max(map(len, names)) <= LONGEST_NAME:
        return found
    short = {name: f"run {i + 1}" for i, name in enumerate(names)}
    for name, called in short.items():
        typer.echo(f"{called}: {name}")
    pairs = [replace(pair, first=short[pair.first], second=short[pair.second]) for pair in found.pairs]
    return replace(found, runs=[replace(run, name=short[run.name]) for run in found.runs], pairs=pairs)


def _print_terminal(found: Comparison) -> None:
    runs, pairs = found.runs, found.pairs
    tables = _tables(found, "table")
    wide = len(runs) > MOST_COLUMNS
    shown = [pair for pair in pairs if not wide or (pair.first == runs[0].name and pair.radius is None)]
    for table in tables:
        for block in _blocks(table) if wide or table is not tables[0] else [table]:
            _print_table(block)
    _print_table(_pairs(shown))
    if wide and pairs:
        typer.echo("--format csv or json has the differences at each radius, and those of all pairs.")
    if not wide:
        typer.echo(f"Brackets: {found.confidence:.0%} Clopper-Pearson intervals, each by itself.")


def _tables(found: Comparison, form: str) -> list[list[list[str]]]:
    tables = [_runs(found.runs, found.radii, found.confidence, form)]
    tables += [_ecdf(found.runs, found.sigma)] if found.sigma is not None else []
    return tables + ([_classes(found.runs, found.radii)] if found.classes else [])


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
    errors = any(run.errored for run in runs)
    if form != "table" or len(runs) > MOST_COLUMNS:
        errored = ["errored"] if errors else []
        head = ["certified accuracy", "images", *errored, "abstained", "ACR", *(f"at {r:g}" for r in radii)]
        return [head] + [
            [run.name, str(run.images), *([str(run.errored)] if errors else []), str(run.abstained), f"{run.acr:.3f}"]
            + [f"{value:.1%}" for value in curve.values]
            for run, curve in zip(runs, curves, strict=True)
        ]
    rows = [["certified accuracy", *(run.name for run in runs)]]
    rows.append(["images", *(f"{run.images:,}" for run in runs)])
    if errors:
        rows.append(["errored", *(f"{run.errored:,}" for run in runs)])
    rows.append(["abstained", *(f"{run.abstained:,}" for run in runs)])
    rows.append(["ACR", *(f"{run.acr:.3f}" for run in runs)])
    for i, radius in enumerate(radii):
        rows.append([f"at {radius:g}", *(f"{c.values[i]:.1%} [{c.lows[i]:.1%}, {c.highs[i]:.1%}]" for c in curves)])
    return rows


def _ecdf(runs: Sequence[Run], sigma: float) -> list[list[str]]:
    head = ["share of images with proven p_A", *(f">= {level:g}" for level in LEVELS)]
    return [head, *([run.name, *(f"{share:.1%}" for share in share_above(run, LEVELS, sigma))] for run in runs)]


def _classes(runs: Sequence[Run], radii: Sequence[float]) -> list[list[str]]:
    """A row for each class of each run; a class without images in a run has none."""
    head = ["class", "images", "abstained", "ACR", *(f"at {r:g}" for r in radii)]
    parts = [(run.name, label, part) for run in runs for label, part in run.classes.items()]
    return [head] + [
        [f"{name}: {label}" if len(runs) > 1 else str(label), str(part.images), str(part.abstained), f"{part.acr:.3f}"]
        + [f"{value:.1%}" for value in curve_at(part, radii).values]
        for name, label, part in parts
    ]


def _pairs(pairs: Sequence[PairedDifference]) -> list[list[str]]:
    rows = [["first - second", "radius", "difference", "standard_error", "p_value"]]
    for pair in pairs:
        radius = "ACR" if pair.radius is None else f"{pair.radius:g}"
        figures = (f"{pair.difference:+.4f}", f"{pair.standard_error:.4f}", f"{pair.p_value:.2g}")
        rows.append([f"{pair.first} - {pair.second}", radius, *figures])
    return rows


def _csv(found: Comparison) -> str:
    """One table, a figure a row and numbers without a sign of percent, as programs read it."""
    text = io.StringIO()
    rows = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    rows.writeheader()
    parts = [(run, None, run) for run in found.runs]
    if found.classes:
        parts += [(run, label, part) for run in found.runs for label, part in run.classes.items()]
    for run, label, part in parts:
        named = {"run": run.name, "class": label}
        counts = {"images": part.images, "errored": part.errored, "abstained": part.abstained}
        counts |= {"incorrect": part.incorrect, "acr": part.acr}
        rows.writerows(named | {"measure": measure, "value": value} for measure, value in counts.items())
        curve = curve_at(part, found.radii, found.confidence)
        for at, value, low, high in zip(found.radii, curve.values, curve.lows, curve.highs, strict=True):
            rows.writerow(named | {"measure": "certified_accuracy", "at": at, "value": value, "low": low, "high": high})
    if found.sigma is not None:
        for run in found.runs:
            for at, value in zip(LEVELS, share_above(run, LEVELS, found.sigma), strict=True):
                rows.writerow({"run": run.name, "measure": "proven_probability", "at": at, "value": value})
    for pair in found.pairs:
        measure = {"measure": "acr"} if pair.radius is None else {"measure": "certified_accuracy", "at": pair.radius}
        figures = {name: getattr(pair, name) for name in DIFFERENCE}
        rows.writerow({"run": pair.first, "minus": pair.second, **measure, **figures})
    return text.getvalue()


def _markdown(rows: list[list[str]]) -> str:
    lines = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    lines.insert(1, ["---", *["---:"] * (len(rows[0]) - 1)])
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def _latex(rows: list[list[str]]) -> str:
    body = [" & ".join(cell.translate(LATEX).replace("$>$=", r"$\geq$") for cell in row) for row in rows]
    begin = rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}"
    return "\n".join([begin, *(rf"{row} \\" for row in body), r"\end{tabular}"])
