"""The test behind a prediction: is the most frequent class really the most probable one?"""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

_FIRST_LOOK = 16  # chosen: 16 unanimous votes have p = 3e-5; fewer reach no usual share of alpha


@dataclass(frozen=True, slots=True)
class TopClass:
    """The most frequent class (ties: the lowest index) and the p-value of its lead over the second."""

    label: int
    p_value: float


@dataclass(frozen=True, slots=True)
class PredictLook:
    """A vote count at which the test is made, and the share of alpha that it may spend."""

    n: int
    alpha: float


def top_class_test(counts: Sequence[int]) -> TopClass:
    """Two-sided exact binomial test of the largest count against the second largest at 1/2.

    Naming the class where p <= alpha is wrong with probability at most alpha: Hung & Fithian 2019; Cohen et al. 2019,
    section 3.2.1.

    Args:
        counts: votes per class, at least two classes; without a vote p is 1.
    """
    label = max(range(len(counts)), key=lambda c: (counts[c], -c))
    second = max(count for c, count in enumerate(counts) if c != label)
    votes = counts[label] + second
    p_value = float(binomtest(counts[label], votes, 0.5).pvalue) if votes else 1.0
    return TopClass(label, p_value)


def predict_looks(n: int, alpha: float, *, early_stop: bool) -> tuple[PredictLook, ...]:
    """When to make the test, ascending and ending at `n`.

    Without early stopping there is one, with the whole alpha. With it the test at `n` keeps half, and tests at 16, 32,
    64, ... votes share the other half equally: by the union bound the answer, whenever it is given, is wrong with
    probability at most alpha.
    """
    early = [votes for votes in (_FIRST_LOOK << i for i in range(n.bit_length())) if votes < n] if early_stop else []
    if not early:
        return (PredictLook(n, alpha),)
    return (*(PredictLook(votes, alpha / 2 / len(early)) for votes in early), PredictLook(n, alpha / 2))
