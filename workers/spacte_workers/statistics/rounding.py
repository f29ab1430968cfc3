"""Rounding a radius so that what is stored or shown is never more than what was proven."""

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

RADIUS_DIGITS = 6


def round_down(value: float, digits: int = RADIUS_DIGITS) -> float:
    """The largest number of `digits` decimals that is not above `value`.

    Works on the shortest decimal that reads back as `value`, so that rounding twice changes nothing; the
    result as a double is never above `value`.
    """
    return _round(value, digits, ROUND_FLOOR)


def round_up(value: float, digits: int = RADIUS_DIGITS) -> float:
    """The smallest number of `digits` decimals that is not below `value`."""
    return _round(value, digits, ROUND_CEILING)


def _round(value: float, digits: int, direction: str) -> float:
    step = Decimal(1).scaleb(-digits)
    return float(Decimal(repr(float(value))).quantize(step, rounding=direction))
