"""From above: an image near x that the smoothed classifier g answers otherwise, so that its radius is no larger.

    1. descend the probability of g's answer at x, along gradients over fixed noises, until the votes change
    2. shorten the perturbation while they stay changed
    3. find by bisection where they change on the way from x to there
    4. test with fresh noises, a little beyond, that g answers otherwise: only this proves anything

Steps 1 and 2 are SmoothAdv's attack (Salman et al. 2019, section 2.2) in search of the shortest perturbation; step 4 is
the test of Hung & Fithian 2019 as in PREDICT of Cohen et al. 2019. A generator without input or output: it yields what
is to be drawn, and is sent the outcome.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spacte_client.types import Certificate, Noise
from spacte_workers.images import to_array
from spacte_workers.shards import Image, NoiseSource, Phase

from .prediction import PredictionRun, PredictOutcome, PredictSpec
from .sampling_run import SamplingRun, SingleLookRun

_STEPS, _ROUNDS, _STEPS_A_ROUND = 24, 8, 2
"""Steps to the other side, rounds that shorten, and steps in each. Chosen: twice as many found nothing shorter."""

_GRADIENT_NOISES = 32
"""Noises of a gradient. Chosen: twice as many gave nothing shorter."""

_SHORTER = 0.9  # of the length before, in each round. Chosen: eight rounds can more than halve it
_CLEAR = 3
"""So many times the label's votes are those of the class that leads. Chosen: a test of 100 noises shows that then."""

_BISECTIONS = 8  # chosen: 1/256 of the perturbation's length is less than what the test needs

_BEYOND = (0.02, 0.05, 0.1, 0.2, math.inf)
"""How far beyond the crossing the tests are made, in units of sigma, and no farther than the perturbation found.
Chosen: at 100,000 noises the first often suffices, at 1,000 the third."""

_FARTHEST = 8.0
"""The longest perturbation that is looked for, in units of sigma. Chosen: twice what 100,000 noises can certify."""

_STEP = 255  # steps of an 8-bit pixel

Pixels = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackSpec:
    """What is asked.

    Attributes:
        label: what the smoothed classifier answers at the image.
        sigma, num_classes, noise, seed: as in a `CertifySpec`; the seed is another one than the certificate's.
        n: the most noises of a test.
        alpha: probability that an upper bound is given that is false, in (0, 1).
    """

    label: int
    sigma: float
    num_classes: int
    noise: Noise
    seed: str
    n: int
    alpha: float

    @classmethod
    def of(cls, certificate: Certificate, *, n: int, alpha: float, seed: str) -> "AttackSpec":
        """An attack on what a certificate says; the arguments are as the attributes."""
        return cls(
            label=certificate.label,
            sigma=certificate.sigma,
            num_classes=len(certificate.counts),
            noise=certificate.noise,
            seed=seed,
            n=n,
            alpha=alpha,
        )


@dataclass(frozen=True, slots=True)
class Adversarial:
    """An image that the smoothed classifier answers otherwise, shown at level alpha.

    Attributes:
        image: its pixels.
        distance: L2, in units of [0, 1] pixels.
        outcome: the test.
    """

    image: Image
    distance: float
    outcome: PredictOutcome


@dataclass(frozen=True, slots=True)
class Drawing:
    """What an attack wants to have drawn next."""

    image: Image
    run: SamplingRun[Any]


class GradientRun(SingleLookRun[tuple[Pixels, tuple[int, ...]]]):
    """The gradient of the label's probability over some noises, and their votes."""

    def __init__(self, source: NoiseSource, num_classes: int) -> None:
        super().__init__(source, Phase.ATTACK, _GRADIENT_NOISES, num_classes)

    def outcome(self) -> tuple[Pixels, tuple[int, ...]]:
        """Gradient [C, H, W] and votes; only when `done`."""
        parts = [part.gradient_CHW.astype(np.float64) for part in self.parts if part.gradient_CHW is not None]
        return np.sum(parts, axis=0), self.counts


class CountRun(SingleLookRun[tuple[int, ...]]):
    """Votes over some noises."""

    def outcome(self) -> tuple[int, ...]:
        """Votes per class; only when `done`."""
        return self.counts


Attack = Generator[Drawing, Any, Adversarial | None]


def most_noises(n: int) -> int:
    """The most noises that an attack draws whose tests have `n` each."""
    gradients = _STEPS + 1 + _ROUNDS * (_STEPS_A_ROUND + 1)
    return gradients * _GRADIENT_NOISES + _BISECTIONS * max(n // 10, _GRADIENT_NOISES) + len(_BEYOND) * n


def attack(image: Image, spec: AttackSpec) -> Attack:
    """Look for the nearest image that is answered otherwise.

    Yields:
        What is to be drawn; send the run's outcome.

    Returns:
        The image, or None where none was found or shown: there is no upper bound then.
    """
    x = to_array(image).astype(np.float64) / (_STEP if image.dtype == "uint8" else 1)
    delta = yield from _descend(x, spec)
    if delta is None:
        return None
    delta = yield from _shorten(x, delta, spec)
    crossing = yield from _bisect(image, x, delta, spec)
    length = float(np.linalg.norm(delta))
    scales = [crossing + beyond * spec.sigma / length if length else 1.0 for beyond in _BEYOND]
    for attempt, scale in enumerate(min(scale, 1.0) for scale in scales):
        near = _moved(image, x, scale * delta)
        seed = f"{int(spec.seed, 16) ^ (attempt + 1):032x}"
        test = PredictSpec(
            spec.sigma, spec.num_classes, spec.n, spec.alpha / len(_BEYOND), spec.noise, seed, early_stop=True
        )
        outcome: PredictOutcome = yield Drawing(near, PredictionRun(test))
        if not outcome.abstained and outcome.label != spec.label:
            return Adversarial(near, _distance(near, x), outcome)
    return None


def _descend(x: Pixels, spec: AttackSpec) -> Generator[Drawing, Any, Pixels | None]:
    """A perturbation with which another class has most votes."""
    delta, step = np.zeros_like(x), _FARTHEST * spec.sigma / _STEPS
    for _ in range(_STEPS + 1):
        gradient, counts = yield _gradient(x + delta, spec)
        if _another_leads(counts, spec.label):
            return delta
        norm = float(np.linalg.norm(gradient))
        if not math.isfinite(norm) or norm == 0.0:
            return None
        delta = np.clip(x + delta - step * gradient / norm, 0.0, 1.0) - x
    return None


def _shorten(x: Pixels, delta: Pixels, spec: AttackSpec) -> Generator[Drawing, Any, Pixels]:
    """A shorter perturbation with which another class still has most votes."""
    for _ in range(_ROUNDS):
        length = _SHORTER * float(np.linalg.norm(delta))
        shorter = delta * _SHORTER
        for _ in range(_STEPS_A_ROUND):
            gradient, counts = yield _gradient(x + shorter, spec)
            norm = float(np.linalg.norm(gradient))
            if _top(counts) != spec.label or not math.isfinite(norm) or norm == 0.0:
                break
            moved = shorter - length / _STEPS_A_ROUND * gradient / norm
            moved = np.clip(x + moved * min(1.0, length / float(np.linalg.norm(moved))), 0.0, 1.0) - x
            shorter = moved
        _, counts = yield _gradient(x + shorter, spec)
        if not _another_leads(counts, spec.label):
            break
        delta = shorter
    return delta


def _bisect(image: Image, x: Pixels, delta: Pixels, spec: AttackSpec) -> Generator[Drawing, Any, float]:
    """Which share of the perturbation changes the votes."""
    low, high = 0.0, 1.0
    votes = max(spec.n // 10, _GRADIENT_NOISES)
    for i in range(_BISECTIONS):
        middle = (low + high) / 2
        source = NoiseSource(spec.seed, i, spec.sigma, spec.noise)
        counts = yield Drawing(
            _moved(image, x, middle * delta), CountRun(source, Phase.ATTACK, votes, spec.num_classes)
        )
        low, high = (middle, high) if _top(counts) == spec.label else (low, middle)
    return high


def _gradient(x: Pixels, spec: AttackSpec) -> Drawing:
    source = NoiseSource(spec.seed, 0, spec.sigma, "float", output="gradient", label=spec.label)
    image = Image(np.ascontiguousarray(x, np.float32).tobytes(), _shape(x), "float32")
    return Drawing(image, GradientRun(source, spec.num_classes))


def _moved(image: Image, x: Pixels, delta: Pixels) -> Image:
    """The perturbed image, on the 8-bit grid where the image is."""
    moved = np.clip(x + delta, 0.0, 1.0)
    if image.dtype == "uint8":
        return replace(image, data=np.rint(moved * _STEP).astype(np.uint8).tobytes())
    return replace(image, data=moved.astype(np.float32).tobytes())


def _distance(image: Image, x: Pixels) -> float:
    pixels = to_array(image).astype(np.float64) / (_STEP if image.dtype == "uint8" else 1)
    return float(np.linalg.norm(pixels - x))


def _top(counts: tuple[int, ...]) -> int:
    return max(range(len(counts)), key=lambda label: counts[label])


def _another_leads(counts: tuple[int, ...], label: int) -> bool:
    """Whether a class has clearly more votes than the label, whose share may be small where there are many classes."""
    return max(counts[:label] + counts[label + 1 :]) >= max(1, _CLEAR * counts[label])


def _shape(x: Pixels) -> tuple[int, int, int]:
    channels, height, width = x.shape
    return channels, height, width
