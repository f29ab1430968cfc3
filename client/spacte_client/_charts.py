"""Charts of a report as inline SVG: an axis each way, one step line, perhaps a band around it. No dependency."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 44
"""Pixels around the plot for the numbers and names of the axes. Chosen: two digits and a line of text."""

TICKS = 5


class Point(NamedTuple):
    """A value at x, and the ends of its interval where it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


def step_chart(points: Sequence[Point], *, x_name: str, y_name: str, x_top: float) -> str:
    """A line that keeps each point's value until the next one; y goes from 0 to 1."""
    line = _path([(point.x, point.y) for point in points], x_top)
    band = ""
    if points and points[0].low is not None:
        there = _corners([(point.x, point.high or 0.0) for point in points])
        back = list(reversed(_corners([(point.x, point.low or 0.0) for point in points])))
        outline = " ".join(f"{_x(x, x_top):.1f},{_y(y):.1f}" for x, y in (*there, *back))
        band = f'<polygon class="band" points="{outline}"/>'
    ticks = "".join(_tick_x(x_top * i / TICKS, x_top) + _tick_y(i / TICKS) for i in range(TICKS + 1))
    names = (
        f'<text class="name" x="{(WIDTH + LEFT) / 2:.0f}" y="{HEIGHT - 6}">{escape(x_name)}</text>'
        f'<text class="name" transform="translate(14 {HEIGHT / 2:.0f}) rotate(-90)">{escape(y_name)}</text>'
    )
    label = escape(f"{y_name} against {x_name}")
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{ticks}{band}'
        f'<path class="line" d="{line}"/>{names}</svg>'
    )


def _corners(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The corners of the steps: each value holds up to the next x."""
    corners: list[tuple[float, float]] = []
    for x, y in points:
        if corners:
            corners.append((x, corners[-1][1]))
        corners.append((x, y))
    return corners


def _path(points: Sequence[tuple[float, float]], x_top: float) -> str:
    return "M" + " L".join(f"{_x(x, x_top):.1f} {_y(y):.1f}" for x, y in _corners(points)) if points else ""


def _x(x: float, top: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * min(x / top, 1.0)


def _y(y: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y


def _tick_x(x: float, top: float) -> str:
    at = _x(x, top)
    return (
        f'<line class="grid" x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text class="tick" x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}">{x:.3g}</text>'
    )


def _tick_y(y: float) -> str:
    at = _y(y)
    return (
        f'<line class="grid" x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}"/>'
        f'<text class="tick" style="text-anchor:end" x="{LEFT - 6}" y="{at + 4:.1f}">{y:.1f}</text>'
    )
