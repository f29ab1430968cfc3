"""The exact distribution of grid noise: round(255 sigma N(0, 1)) as integer masses and a lookup table.

Everything here is integer arithmetic on fixed-point numbers of 192 bits, so that the stated total variation
is a fact about the table and not about the rounding of a float64 normal cdf. No torch.

How a value is drawn from the table (`grid.py`): 16 random bits pick one of 65,536 equally likely columns.
Most columns hold one value. The last few, at `first_shared` and above, are shared by two values: there 64
further random bits are compared with a threshold (Walker 1977, with the columns of a 16-bit alias table).
So a value has exactly mass / 2**80, with the masses given in `NoiseTable.masses`.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

COLUMN_BITS = 16
THRESHOLD_BITS = 64
MASS_BITS = COLUMN_BITS + THRESHOLD_BITS
MIN_SIGMA = 0.001
"""Smallest sigma in units of [0, 1] pixels: below it the cdf's series would need more digits, soon without end."""

MAX_SIGMA = 12.0  # largest sigma in units of [0, 1] pixels: beyond it the values would not fit the table's columns
_COLUMNS = 1 << COLUMN_BITS
_COLUMN_MASS = 1 << THRESHOLD_BITS
_TAIL_SDS = 9  # the mass beyond nine standard deviations, 2.3e-19, is lumped onto the outermost values
_FRACTION_BITS = 192
_ONE = 1 << _FRACTION_BITS


@dataclass(frozen=True, eq=False)
class NoiseTable:
    """The law of one pixel's noise, in steps of 1/255.

    Attributes:
        sigma: noise sd in units of [0, 1] pixels.
        half_width: the largest magnitude drawn; values are -half_width..half_width.
        masses: probability of each value times 2**80, exact integers, from -half_width up; they sum to 2**80.
        total_variation: distance of this law from the rounded Gaussian, truncation included, rounded up.
            It is per pixel: an image of P pixels is off by at most P times as much.
        value: [65536] int16, the value of each column (its first value where the column is shared).
        first_shared: columns from here on are shared by two values.
        threshold: [65536 - first_shared] uint64; below it the column gives `value`, else `other`.
        other: [65536 - first_shared] int16.
    """

    sigma: float
    half_width: int
    masses: tuple[int, ...]
    total_variation: float
    value: NDArray[np.int16]
    first_shared: int
    threshold: NDArray[np.uint64]
    other: NDArray[np.int16]


@lru_cache(maxsize=32)
def noise_table(sigma: float) -> NoiseTable:
    """The table for one noise level, made once (about 0.1 s at sigma 0.25).

    Args:
        sigma: noise sd in units of [0, 1] pixels, 0.001 <= sigma <= 12.

    Raises:
        ValueError: sigma is outside that range.
    """
    if not MIN_SIGMA <= sigma <= MAX_SIGMA:
        raise ValueError(
            f"sigma is {sigma:g}, but grid noise needs {MIN_SIGMA:g} <= sigma <= {MAX_SIGMA:g}; use noise='float'."
        )
    above_zero, tail = _upper_half(sigma)
    masses = _integer_masses(above_zero)
    half_width = len(above_zero)
    value, first_shared, threshold, other = _columns(masses, half_width)
    return NoiseTable(
        sigma=sigma,
        half_width=half_width,
        masses=masses,
        total_variation=_total_variation(masses, above_zero, tail),
        value=value,
        first_shared=first_shared,
        threshold=threshold,
        other=other,
    )


def _upper_half(sigma: float) -> tuple[list[int], int]:
    """P(z) for z = 1, 2, ..., in fixed point, the last with all beyond it; and what is beyond it."""
    steps = Fraction(sigma) * 255
    half_width = max(1, math.ceil(_TAIL_SDS * steps))
    to_edge = [_phi_above_half(Fraction(2 * z + 1, 2) / steps) for z in range(half_width + 1)]
    masses = [to_edge[z] - to_edge[z - 1] for z in range(1, half_width + 1)]
    beyond = _ONE // 2 - to_edge[half_width]
    masses[-1] += beyond
    return masses, beyond


def _phi_above_half(x: Fraction) -> int:
    """Phi(x) - 1/2 in fixed point, by the Maclaurin series, for 0 < x < 10.

    The largest term is below exp(x^2 / 2) < 2**73, so that cancellation leaves more than 110 bits.
    """
    x_fixed = (x.numerator << _FRACTION_BITS) // x.denominator
    x_squared = x_fixed * x_fixed >> _FRACTION_BITS
    power, total, n = x_fixed, x_fixed, 0
    while power:
        n += 1
        power = (power * x_squared >> _FRACTION_BITS) // (2 * n)
        term = power // (2 * n + 1)
        total += -term if n % 2 else term
    return (total * _inverse_sqrt_2pi()) >> _FRACTION_BITS


@lru_cache(maxsize=1)
def _inverse_sqrt_2pi() -> int:
    """1 / sqrt(2 pi) in fixed point, with pi from Machin's formula."""

    def arctan_inverse(n: int) -> int:
        power = total = _ONE // n
        k = 1
        while power:
            power //= n * n
            k += 2
            total += -(power // k) if k % 4 == 3 else power // k
        return total

    pi = 4 * (4 * arctan_inverse(5) - arctan_inverse(239))
    return _ONE * _ONE // math.isqrt(2 * pi * _ONE)


def _integer_masses(above_zero: list[int]) -> tuple[int, ...]:
    """The masses rounded to 1/2**80; zero takes up what rounding leaves, so that the sum is exact."""
    shift = _FRACTION_BITS - MASS_BITS
    upper = [(mass + (1 << (shift - 1))) >> shift for mass in above_zero]
    at_zero = (1 << MASS_BITS) - 2 * sum(upper)
    return (*reversed(upper), at_zero, *upper)


def _total_variation(masses: tuple[int, ...], above_zero: list[int], tail: int) -> float:
    """Half the L1 distance to the rounded Gaussian on all integers, rounded up to a float."""
    half_width = len(above_zero)
    shift = _FRACTION_BITS - MASS_BITS
    true_at_zero = _ONE - 2 * sum(above_zero)
    distance = abs((masses[half_width] << shift) - true_at_zero)
    for z, true_mass in enumerate(above_zero, start=1):
        distance += 2 * abs((masses[half_width + z] << shift) - true_mass)
    distance += 2 * 2 * tail  # each tail is missing beyond the outermost value and surplus on it
    return math.nextafter(distance / (2 * _ONE), math.inf)


def _columns(
    masses: tuple[int, ...], half_width: int
) -> tuple[NDArray[np.int16], int, NDArray[np.uint64], NDArray[np.int16]]:
    """Lay the masses out as columns: whole ones first, then one shared column a value."""
    shared = len(masses)
    left = list(masses)
    whole = [mass >> THRESHOLD_BITS for mass in masses]
    # Each value keeps about one column's mass for the shared part, which needs exactly `shared` columns in
    # all.
    total = sum(whole)
    surplus = total - (_COLUMNS - shared)
    whole = [count - count * surplus // total for count in whole]
    for index in sorted(range(shared), key=lambda i: -whole[i])[: sum(whole) - (_COLUMNS - shared)]:
        whole[index] -= 1
    for index, count in enumerate(whole):
        left[index] -= count * _COLUMN_MASS

    first, second, threshold = _share(left)
    values = np.arange(-half_width, half_width + 1, dtype=np.int16)
    return (
        np.concatenate([np.repeat(values, whole), values[first]]),
        _COLUMNS - shared,
        np.array(threshold, dtype=np.uint64),
        values[second],
    )


def _share(left: list[int]) -> tuple[list[int], list[int], list[int]]:
    """Vose's method (1991) in integers: as many columns as values, each filled by at most two.

    Returns:
        For each column the index of its first value, of its second, and the mass of the first (0 where the
        second fills it alone).
    """
    small = [i for i, mass in enumerate(left) if mass < _COLUMN_MASS]
    large = [i for i, mass in enumerate(left) if mass >= _COLUMN_MASS]
    first, second, threshold = [], [], []
    while small:
        under = small.pop()
        over = large[-1]
        first.append(under)
        second.append(over)
        threshold.append(left[under])
        left[over] -= _COLUMN_MASS - left[under]
        if left[over] < _COLUMN_MASS:
            small.append(large.pop())
    for over in large:  # exactly full: all mass is accounted for
        first.append(over)
        second.append(over)
        threshold.append(0)
    return first, second, threshold
