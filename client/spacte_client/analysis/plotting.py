"""Certified accuracy against radius, drawn with matplotlib (the extra `plot`)."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .accuracy import Run, curve_at

POINTS = 256
"""Radii at which a curve is drawn. Chosen: closer together than the eye sees at this size."""


def plot_runs(
    runs: Sequence[Run], paths: Sequence[Path], *, confidence: float = 0.95, title: str | None = None
) -> None:
    """Draw the runs' certified accuracy against L2 radius, with a band of exact intervals, into each path.

    The ending of a path chooses its format. `confidence` is that of the band, at each radius by itself.

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
        curve = curve_at(run, radii, confidence)
        label = f"{run.name} (ACR {run.acr:.3f})"
        (line,) = axes.plot(curve.radii, curve.values, label=label, drawstyle="steps-pre")
        axes.fill_between(
            curve.radii, curve.lows, curve.highs, step="pre", alpha=0.15, color=line.get_color(), linewidth=0
        )
    axes.set(xlim=(0, end), ylim=(0, 1), xlabel="L2 radius", ylabel="certified accuracy", title=title or "")
    axes.grid(visible=True, linewidth=0.4, alpha=0.6)
    axes.legend(frameon=False)
    axes.text(1, 1.01, f"bands: {confidence:.0%} Clopper-Pearson", transform=axes.transAxes, ha="right", fontsize=7)
    for path in paths:
        figure.savefig(path, dpi=160)
