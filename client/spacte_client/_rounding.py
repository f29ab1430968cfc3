"""Radii for people: rounded down, since a radius rounded up would claim what was not proven."""

import math


def floor_text(value: float, digits: int) -> str:
    """`value` with `digits` decimals, rounded down.

    The scaled value is raised by a relative 1e-12 first, so that 0.3, stored as 0.29999..., stays 0.3.
    """
    scale = 10**digits
    return f"{math.floor(value * scale * (1 + 1e-12)) / scale:.{digits}f}"
