"""Certified accuracy and average certified radius of a run.

Certified accuracy at radius r is the share of images that are answered correctly with a certified radius of
at least r; an abstention is wrong (Cohen et al. 2019, section 4). The average certified radius (ACR) is the
mean of radius times correct (Zhai et al. 2020).
"""

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

from .binomial import clopper_pearson


@dataclass(frozen=True, slots=True)
class Votes:
    """What a record of a job keeps besides its answer.

    Attributes:
        label: the class that the selection noises chose.
        chosen: estimation votes for it, of `n`.
        n, alpha, sigma: see `CertifyParams`.
        noise_error: what is taken off the lower bound.
        stops_early: whether a rule could have stopped the noises before `n`.
        carried: whether another function than the one that is certified cast the votes.
        incorrect: whether no estimation noises were drawn, because another class than the true one was chosen.
    """

    label: int
    chosen: int
    n: int
    alpha: float
    sigma: float
    noise_error: float
    stops_early: bool
    carried: bool = False
    incorrect: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One image of a log: index, true class, predicted class (-1: abstention), L2 radius, time in seconds, votes."""

    index: int
    label: int
    predict: int
    radius: float
    correct: bool
    seconds: float | None = None
    votes: Votes | None = None


@dataclass(frozen=True)
class Run:
    """The certified images of one run, at least one, and how many have no certificate and count nowhere."""

    name: str
    rows: tuple[Row, ...]
    errored: int = 0

    @property
    def images(self) -> int:
        """Images certified or abstained on."""
        return len(self.rows)

    @property
    def abstained(self) -> int:
        """Images abstained on."""
        return sum(row.predict == -1 for row in self.rows)

    @property
    def acr(self) -> float:
        """Average certified radius."""
        return sum(self._radii) / self.images

    @cached_property
    def rules(self) -> set[tuple[int, float, float]]:
        """(n, alpha, sigma) of its records that have votes; empty where a log does not have them."""
        return {(v.n, v.alpha, v.sigma) for row in self.rows if (v := row.votes) is not None and not v.incorrect}

    @cached_property
    def sigmas(self) -> set[float]:
        """Noise levels of its records; empty where a log does not have them."""
        return {row.votes.sigma for row in self.rows if row.votes is not None}

    @property
    def incorrect(self) -> int:
        """Images of `abstained` that were stopped because another class than the true one was chosen."""
        return sum(row.votes is not None and row.votes.incorrect for row in self.rows)

    @cached_property
    def classes(self) -> dict[int, "Run"]:
        """The images of each true class, as a run of the same name."""
        labels = sorted({row.label for row in self.rows})
        return {label: Run(self.name, tuple(r for r in self.rows if r.label == label)) for label in labels}

    @property
    def largest_radius(self) -> float:
        """The largest radius of a correct answer; 0 without any."""
        return self._radii[-1] if self._radii else 0.0

    def correct_beyond(self, radius: float) -> int:
        """Images answered correctly with a certified radius of at least `radius`."""
        return len(self._radii) - bisect.bisect_left(self._radii, radius)

    @cached_property
    def _radii(self) -> list[float]:
        return sorted(row.radius for row in self.rows if row.correct)


@dataclass(frozen=True, slots=True)
class CertifiedAccuracyCurve:
    """Certified accuracy of a run at several radii, each with its own exact binomial interval."""

    radii: Sequence[float]
    values: Sequence[float]
    lows: Sequence[float]
    highs: Sequence[float]


def curve_at(run: Run, radii: Iterable[float], confidence: float = 0.95) -> CertifiedAccuracyCurve:
    """Certified accuracy of `run` at `radii`, each with its own Clopper-Pearson interval at `confidence`."""
    radii = list(radii)
    counts = [run.correct_beyond(radius) for radius in radii]
    intervals = [clopper_pearson(count, run.images, confidence) for count in counts]
    return CertifiedAccuracyCurve(
        radii, [count / run.images for count in counts], [low for low, _ in intervals], [high for _, high in intervals]
    )


def share_above(run: Run, levels: Iterable[float], sigma: float) -> list[float]:
    """For each p, the share of images whose true class is proven to have a probability of at least p under noise.

    What is proven is p_A = Phi(R / sigma) where the answer is correct; where it is wrong or an abstention, nothing.
    One minus this share is the empirical distribution function of p_A's lower bound, which says what the ACR alone
    does not: whether a radius was gained on images that were hard ("Average certified radius is a poor metric", 2024).
    """
    radii = (sigma * NormalDist().inv_cdf(max(p, 0.5)) for p in levels)
    return [run.correct_beyond(radius) / run.images for radius in radii]


def radius_grid(runs: Sequence[Run], step: float) -> list[float]:
    """0, step, 2 step, ... up to the first radius that no run reaches, so that the table shows the end."""
    largest = max(run.largest_radius for run in runs)
    steps = int(largest / step) + 1
    return [round(i * step, 10) for i in range(steps + 1)]
