"""Two runs on the same images, paired by index: differences with standard errors, and McNemar's exact test.

Intervals of each run by itself cannot decide between two models, because both answer the same images.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from .accuracy import Row, Run
from .logs import LogError


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """First run minus second; `radius` is None for the ACR, whose p-value is the normal approximation's."""

    first: str
    second: str
    radius: float | None
    difference: float
    standard_error: float
    p_value: float


def mcnemar(first_only: int, second_only: int) -> float:
    """The two-sided exact p-value (McNemar 1947): a sign test on the images that only one run answers."""
    n = first_only + second_only
    tail = ways = 1  # of choosing k of n; each from the one before it, as thousands of images make large numbers
    for k in range(1, min(first_only, second_only) + 1):
        ways = ways * (n - k + 1) // k
        tail += ways
    return min(1.0, 2 * tail / 2**n)


def normal_p_value(mean: float, error: float, images: int) -> float:
    """The two-sided p-value of a mean with its standard error, by the normal approximation; 1 for a single image."""
    if images < 2:
        return 1.0
    return math.erfc(abs(mean) / error / math.sqrt(2)) if error else float(mean == 0)


def paired_differences(runs: Sequence[Run], radii: Sequence[float]) -> tuple[list[PairedDifference], list[str]]:
    """For each pair of runs, the difference of ACR and then of certified accuracy at each of `radii`.

    Returns:
        The differences, and a sentence for each pair that holds different images and so is left out.

    Raises:
        LogError: two runs disagree about the true class of an image.
    """
    found: list[PairedDifference] = []
    unpaired: list[str] = []
    for first, second in itertools.combinations(runs, 2):
        shared = len({row.index for row in first.rows} & {row.index for row in second.rows})
        if not shared == len(first.rows) == len(second.rows):
            unpaired.append(
                f"{first.name} has {first.images} images and {second.name} {second.images}, of which {shared} are the "
                "same: no difference is stated; compare runs on the same images."
            )
            continue
        rows = _matched(first, second)
        gains = [a.radius * a.correct - b.radius * b.correct for a, b in rows]
        mean, error = _mean_and_error(gains)
        p_value = normal_p_value(mean, error, len(rows))
        found.append(PairedDifference(first.name, second.name, None, mean, error, p_value))
        for radius in radii:
            signs = [(a.correct and a.radius >= radius) - (b.correct and b.radius >= radius) for a, b in rows]
            mean, error = _mean_and_error(signs)
            p_value = mcnemar(signs.count(1), signs.count(-1))
            found.append(PairedDifference(first.name, second.name, radius, mean, error, p_value))
    return found, unpaired


def _matched(first: Run, second: Run) -> list[tuple[Row, Row]]:
    others = {row.index: row for row in second.rows}
    rows = [(row, others[row.index]) for row in first.rows]
    for a, b in rows:
        if a.label != b.label:
            raise LogError(
                f"Image {a.index} has label {a.label} in {first.name} and {b.label} in {second.name}; "
                "compare runs on the same data set."
            )
    return rows


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    squares = sum((value - mean) ** 2 for value in values)
    return mean, math.sqrt(squares / max(len(values) - 1, 1) / len(values))
