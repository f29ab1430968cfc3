"""`spacte plot` and `spacte compare`: certified accuracy of runs from their logs, as a picture or a table."""

import json
import math
import re
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from spacte_client.analysis.accuracy import Run, curve_at, radius_grid, share_above
from spacte_client.analysis.logs import log_name, read_log
from spacte_client.analysis.pairs import paired_differences
from spacte_client.analysis.recertified import recertified

from . import _options as opt
from ._comparison import LEVELS, Comparison, print_comparison

MOST_RADII = 1_000
"""Of a grid. Chosen: more than anyone reads, and still computed in seconds."""

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
Sigma = Annotated[
    float | None,
    typer.Option("--sigma", help="Noise level, for --ecdf; else that of the records, or in which all file names end."),
]


def plot(
    logs: Logs,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The picture; without .png, .svg or .pdf both PNG and SVG are written.")
    ] = Path("certified-accuracy"),
    names: Names = None,
    title: Annotated[str | None, typer.Option("--title", help="Above the picture.")] = None,
    confidence: Confidence = 0.95,
    ecdf: Annotated[
        bool, typer.Option("--ecdf", help="Against the proven probability of the true class in place of the radius.")
    ] = False,
    sigma: Sigma = None,
) -> None:
    """Draw certified accuracy against radius, a curve and an interval band for each log."""
    runs = read_runs(logs, names, confidence)
    tell(different_rules(runs), *paired_differences(runs, [])[1])
    noise = noise_of(runs, logs, sigma) if ecdf else None
    paths = [out] if out.suffix in (".png", ".svg", ".pdf") else [Path(f"{out}.png"), Path(f"{out}.svg")]
    try:
        from spacte_client.analysis.plotting import plot_runs

        plot_runs(runs, paths, confidence=confidence, title=title, sigma=noise)
    except ImportError as error:
        raise typer.TyperException(
            "Plots need matplotlib; install it with `pip install 'spacte-client[plot]'`."
        ) from error
    except OSError as error:
        raise typer.TyperException(f"Cannot write {paths[0]}: {error.strerror}; check the folder.") from error
    except Exception as error:  # matplotlib fails in any way it likes on what is set for it
        why = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
        raise typer.TyperException(
            f"matplotlib cannot draw this ({why}); correct what is set for it, in a matplotlibrc or in the environment "
            "(SOURCE_DATE_EPOCH, say)."
        ) from error
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
    radii: Annotated[
        list[float] | None, typer.Option("--radius", help="A radius to compare at, once for each; in place of a grid.")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option("--alpha", help="Certify again at this alpha, from the votes that records hold.")
    ] = None,
    n: Annotated[int | None, typer.Option("--n", help="Certify again with this many of the records' noises.")] = None,
    classes: Annotated[bool, typer.Option("--per-class", help="Also certified accuracy for each true class.")] = False,
    ecdf: Annotated[
        bool, typer.Option("--ecdf", help="Also the distribution of the proven probability of the true class.")
    ] = False,
    sigma: Sigma = None,
    confidence: Confidence = 0.95,
    form: Annotated[Format, typer.Option("--format", help="Of what is printed.")] = Format.TABLE,
    as_json: opt.AsJson = False,
) -> None:
    """Compare runs: ACR, certified accuracy at a grid of radii, and differences paired by image.

    Below the runs stands their difference, image by image, with the exact sign test (McNemar).
    """
    check_options(step, radii, alpha, n, sigma)
    runs = read_runs(logs, names, confidence)
    if alpha is not None or n is not None:
        runs = [recertified(run, alpha=alpha, n=n) for run in runs]
    tell(different_rules(runs), stopped_incorrect(runs))
    level = sigma or common_sigma(logs)
    if not radii:
        radii = [round(i * level, 10) for i in range(4)] if step is None and level else grid(runs, step or 0.25)
    noise = noise_of(runs, logs, sigma) if ecdf else None
    documents = [_document(run, radii, confidence, noise, classes=classes) for run in runs]
    if as_json:
        typer.echo(json.dumps(documents))
        return
    pairs, unpaired = paired_differences(runs, radii)
    if form is Format.JSON:
        found = {"runs": documents, "pairs": [asdict(pair) for pair in pairs], "not_paired": unpaired}
        typer.echo(json.dumps(found))
        return
    print_comparison(Comparison(runs, radii, pairs, confidence, noise, classes), form.value)
    tell(*unpaired)


def grid(runs: list[Run], step: float) -> list[float]:
    """Radii that many apart; raises BadParameter where that would be too many."""
    if max(run.largest_radius for run in runs) / step > MOST_RADII:
        raise typer.BadParameter(
            f"{step:g} apart these radii are more than {MOST_RADII}: give a larger one.", param_hint="--step"
        )
    return radius_grid(runs, step)


def tell(*sentences: str | None) -> None:
    """Print what a reader has to know besides, where there is something."""
    for sentence in filter(None, sentences):
        typer.echo(sentence, err=True)


def check_options(
    step: float | None, radii: list[float] | None, alpha: float | None, n: int | None, sigma: float | None
) -> None:
    """Raise BadParameter for an option of `compare` that cannot be."""
    if sigma is not None and not 0 < sigma < math.inf:
        raise typer.BadParameter("is above 0, such as 0.25.", param_hint="--sigma")
    if step is not None and not 0 < step < math.inf:
        raise typer.BadParameter("is above 0, such as 0.25.", param_hint="--step")
    if step is not None and radii:
        raise typer.BadParameter("leave out --step where radii are given.", param_hint="--radius")
    if not all(0 <= radius < math.inf for radius in radii or []):
        raise typer.BadParameter("is 0 or above, such as 0.5.", param_hint="--radius")
    if alpha is not None and not 0 < alpha < 0.5:
        raise typer.BadParameter("is between 0 and 0.5, such as 0.001.", param_hint="--alpha")
    if n is not None and n < 1:
        raise typer.BadParameter("is at least 1, such as 1000.", param_hint="--n")


def different_rules(runs: list[Run]) -> str | None:
    """A sentence where runs were certified by different rules, so that their radii say different things."""
    rules = {run.name: run.rules for run in runs if run.rules}
    if len(set[tuple[int, float, float]]().union(*rules.values())) < 2:
        return None
    told = "; ".join(
        f"{name} has {' and '.join(f'n = {n:,}, alpha = {alpha:g}, sigma = {sigma:g}' for n, alpha, sigma in found)}"
        for name, found in ((name, sorted(found)[:3]) for name, found in rules.items())
    )
    return f"Certified by different rules: {told}. --n and --alpha certify again by the same."


def stopped_incorrect(runs: list[Run]) -> str | None:
    """A sentence where images of some run were stopped as incorrect, which adds to its abstentions."""
    counts = {run.name: run.incorrect for run in runs if run.incorrect}
    if not counts:
        return None
    told = ", ".join(f"{count:,} {'image' if count == 1 else 'images'} of {name}" for name, count in counts.items())
    return f"Stopped as incorrect: {told}. They count as abstentions, and change no ACR and no accuracy."


def noise_of(runs: list[Run], logs: list[Path], sigma: float | None) -> float:
    """The noise level of all runs; raises BadParameter where it is not known or not one."""
    found = {sigma} if sigma else {level for run in runs for level in run.sigmas} or {common_sigma(logs)}
    level = found.pop() if len(found) == 1 else None
    if not level or not 0 < level < math.inf:
        raise typer.BadParameter("these logs do not say one noise level: give it, such as 0.25.", param_hint="--sigma")
    return level


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
    if names and len(set(names)) < len(names):
        raise typer.BadParameter("give each log a name of its own.", param_hint="--name")
    return [read_log(log, name) for log, name in zip(logs, names or names_apart(logs), strict=True)]


def names_apart(logs: list[Path]) -> list[str]:
    """The files' names; of those that are alike with as many folders before them, or endings, as tell them apart."""
    places = [log.resolve() for log in logs]
    names = [log_name(place) for place in places]
    for depth in range(1, max(len(place.parts) for place in places)):
        alike = {place for place, name in zip(places, names, strict=True) if names.count(name) > 1}
        if len(alike) < 2:  # none, or one file twice
            break
        endings = len({place.parent for place in alike}) < len(alike)
        names = [
            "/".join([*place.parent.parts[-depth:], place.name if endings else log_name(place)])
            if place in alike
            else name
            for place, name in zip(places, names, strict=True)
        ]
    return names


def _document(
    run: Run, radii: list[float], confidence: float, sigma: float | None = None, *, classes: bool = False
) -> dict[str, object]:
    curve = curve_at(run, radii, confidence)
    points = zip(curve.radii, curve.values, curve.lows, curve.highs, strict=True)
    more: dict[str, object] = {}
    if sigma is not None:
        shares = zip(LEVELS, share_above(run, LEVELS, sigma), strict=True)
        more["proven_probability"] = [{"at_least": level, "value": value} for level, value in shares]
    if classes:
        more["classes"] = [{"label": k} | _document(part, radii, confidence) for k, part in run.classes.items()]
    return more | {
        "name": run.name,
        "images": run.images,
        "abstained": run.abstained,
        "incorrect": run.incorrect,
        "errored": run.errored,
        "acr": run.acr,
        "confidence": confidence,
        "certified_accuracy": [{"radius": r, "value": v, "low": low, "high": high} for r, v, low, high in points],
    }
