"""Rounding a radius so that what is stored or shown is never more than what was proven."""

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

RADIUS_DIGITS = 6
"""Of a radius on the wire. Chosen: 1e-6 of the pixel range is 4,000 times finer than a step of an 8-bit pixel."""


def round_down(value: float, digits: int = RADIUS_DIGITS) -> float:
    """The largest number of `digits` decimals that is not above `value`.

    Works on the shortest decimal that reads back as `value`, so that rounding twice changes nothing; the
    result as a double is never above `value`.
    """
    return float(_quantize(value, digits, ROUND_FLOOR))


def round_up(value: float, digits: int = RADIUS_DIGITS) -> float:
    """The smallest number of `digits` decimals that is not below `value`."""
    return float(_quantize(value, digits, ROUND_CEILING))


def rounded_down_text(value: float, digits: int) -> str:
    """`value` with `digits` decimals, rounded down."""
    return f"{_quantize(value, digits, ROUND_FLOOR):f}"


def _quantize(value: float, digits: int, direction: str) -> Decimal:
    return Decimal(repr(float(value))).quantize(Decimal(1).scaleb(-digits), rounding=direction)
