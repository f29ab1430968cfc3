"""Certified accuracy against radius, drawn with matplotlib (the extra `plot`)."""

import os
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

from .accuracy import Run, curve_at

POINTS = 256
"""Radii at which a curve is drawn. Chosen: closer together than the eye sees at this size."""


def plot_runs(
    runs: Sequence[Run],
    paths: Sequence[Path],
    *,
    confidence: float = 0.95,
    title: str | None = None,
    sigma: float | None = None,
) -> None:
    """Draw the runs' certified accuracy against L2 radius, with a band of exact intervals, into each path.

    The ending of a path chooses its format. `confidence` is that of the band, at each radius by itself. With a noise
    level `sigma` the axis is the proven probability of the true class, Phi(R / sigma): the empirical distribution
    function of its lower bound, from above.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: matplotlib does not write such a format.
    """
    # Without a display, whatever MPLBACKEND says: matplotlib refuses to be imported with a backend it cannot find.
    os.environ["MPLBACKEND"] = "agg"
    from matplotlib.figure import Figure

    # matplotlib's own annotations leave its keyword arguments unknown.
    figure: Any = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes: Any = figure.add_subplot()
    end = max(run.largest_radius for run in runs) * 1.05 or 1.0
    radii = [end * i / (POINTS - 1) for i in range(POINTS)]
    for run in runs:
        curve = curve_at(run, sorted({*radii, run.largest_radius}), confidence)  # so that it ends where the run does
        before = " " if run.name.startswith("_") else ""  # a legend leaves out what begins with _
        label = f"{before}{_plain(run.name)} (ACR {run.acr:.3f})"
        x = curve.radii if sigma is None else [NormalDist().cdf(radius / sigma) for radius in curve.radii]
        (line,) = axes.plot(x, curve.values, label=label, drawstyle="steps-pre")
        axes.fill_between(x, curve.lows, curve.highs, step="pre", alpha=0.15, color=line.get_color(), linewidth=0)
    xlim, xlabel, ylabel = (0.0, end), "L2 radius", "certified accuracy"
    if sigma is not None:
        xlim, xlabel, ylabel = (0.5, 1.0), "proven probability of the true class, p", "share of images with at least p"
    axes.set(xlim=xlim, ylim=(0, 1), xlabel=xlabel, ylabel=ylabel, title=_plain(title or ""))
    axes.grid(visible=True, linewidth=0.4, alpha=0.6)
    axes.legend(frameon=False)
    axes.text(1, 1.01, f"bands: {confidence:.0%} Clopper-Pearson", transform=axes.transAxes, ha="right", fontsize=7)
    for path in paths:
        figure.savefig(path, dpi=160)


def _plain(text: str) -> str:
    """A text as it is: between two dollars matplotlib would read a formula."""
    return text.replace("$", r"\$")
