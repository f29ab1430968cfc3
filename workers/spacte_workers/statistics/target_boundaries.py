"""Fewest votes that show a target at each look, from the exact distribution of the path of the votes.

To show "R >= t" is to reject p <= p0 = Phi(t / sigma). The number of votes at a look is stochastically largest at p0
itself, and so is the probability of ever reaching a boundary: what boundaries cost is known exactly, and nothing need
be given away to a bound on it. The boundaries are set look by look, each as low as the error that may be spent by then
allows (Lan and DeMets 1983); the distribution of paths that have not reached one is carried from look to look by
convolution with the binomial votes between them (Armitage, McPherson and Rowe 1969).
"""

from collections.abc import Sequence

import numpy as np
from scipy.signal import fftconvolve  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from scipy.stats import binom  # pyright: ignore[reportMissingTypeStubs]

from .bounds import FloatArray

SPENDING_POWER = 0.16
"""Of the error that is spent by n votes, level (n / n_max)^power. Chosen: the mean noises of `spacte bench samples`."""

LEAST_LEVEL = 1e-9
"""Chosen: below it the paths that are cut off, and the rounding of a Fourier transform, would count."""

_SDS, _SPARE = 12.0, 30
"""Votes further than this from their mean are cut off: less than 1e-32 of the paths, by the normal tail, and 30 more
votes where the binomial is not yet normal."""

_DIRECT = 1 << 22  # products of the shorter convolution that are summed directly. Chosen: some milliseconds


class TargetBoundaries:
    """The boundaries of one target, computed when a look is first asked for.

    Args:
        p0: the probability that is to be rejected, below 1.
        looks: vote counts, ascending; there is no boundary at the last, where another bound decides.
        level: probability of ever reaching a boundary at p0.
    """

    def __init__(self, p0: float, looks: Sequence[int], level: float) -> None:
        self._p0, self._looks, self._level = p0, looks, level
        self._votes: list[int] = []
        self._low, self._spent = 0, 0.0
        self._mass: FloatArray = np.ones(1)  # of paths that are not over: all have 0 votes

    def votes(self, look: int) -> int:
        """The fewest votes that show the target at a look; more than there are where none do."""
        if look == len(self._looks) - 1:
            return self._looks[-1] + 1
        while len(self._votes) <= look:
            self._votes.append(self._next())
        return self._votes[look]

    @property
    def spent(self) -> float:
        """Probability, at p0, of reaching one of the boundaries computed so far."""
        return self._spent

    def _next(self) -> int:
        k = len(self._votes)
        n, before = self._looks[k], self._looks[k - 1] if k else 0
        first, step = _binomial(n - before, self._p0)
        low, mass = self._low + first, _convolved(self._mass, step)
        start, stop = _range(n, self._p0)
        cut = max(start - low, 0)
        mass = mass[cut : stop - low]
        low += cut
        allowed = self._level * (n / self._looks[-1]) ** SPENDING_POWER - self._spent
        reached: FloatArray = np.cumsum(mass[::-1])[::-1]
        crossing = int(np.count_nonzero(reached > allowed))  # `reached` falls: the first that is allowed
        self._spent += float(reached[crossing]) if crossing < len(mass) else 0.0
        self._low, self._mass = low, mass[:crossing]
        return low + crossing


def _range(n: int, p: float) -> tuple[int, int]:
    """Votes that n rows give in all but a vanishing part of cases: from, and to but without."""
    mean, width = n * p, _SDS * (n * p * (1.0 - p)) ** 0.5 + _SPARE
    return max(int(mean - width), 0), min(int(mean + width) + 1, n) + 1


def _binomial(n: int, p: float) -> tuple[int, FloatArray]:
    """The least number of votes that is kept, and the probabilities from there on."""
    start, stop = _range(n, p)
    return start, np.asarray(binom.pmf(np.arange(start, stop), n, p), np.float64)  # pyright: ignore[reportUnknownMemberType]


def _convolved(a: FloatArray, b: FloatArray) -> FloatArray:
    if len(a) * len(b) <= _DIRECT:
        return np.convolve(a, b)
    return np.maximum(np.asarray(fftconvolve(a, b), np.float64), 0.0)
