"""What an operator says of the arithmetic of votes. Light to import."""

from dataclasses import dataclass

MIN_AGREEMENT = 0.98
"""Smallest share of noisy rows on which a precision must vote as float32 does, unless an operator says otherwise."""


@dataclass(frozen=True, slots=True)
class PrecisionRule:
    """What an operator allows a sampler to choose.

    Attributes:
        allow_int8: whether `auto` may choose int8.
        min_agreement: smallest share of noisy rows, in 0..1, on which any precision must vote as float32 does.
        portable: whether the kernels have to give the same votes on every kind of x86 processor; they vote in int8.
    """

    allow_int8: bool = False
    min_agreement: float = MIN_AGREEMENT
    portable: bool = False
