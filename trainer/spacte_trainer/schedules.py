"""What changes during a run: threshold lambda(t), warm-up s(t), learning rate, size of crops. Epochs are 1-based."""

import math
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, Field

Pace = Literal["published", "linear", "fixed", "off"]
"""How the threshold gets from ln K to lambda_T: see `threshold`."""


def threshold(epoch: int, epochs: int, num_classes: int, lambda_last: float, pace: Pace = "published") -> float:
    """The loss above which a teacher calls a sample hard (METHODS 3.1).

        lambda(t) = -log10( 10^(-ln K) + (t-1)/(T-1) * (10^(-lambda_T) - 10^(-ln K)) )

    It starts at ln K, the cross-entropy of a uniform guess (the natural logarithm, although the schedule is
    in powers of ten), ends at `lambda_last`, and is linear in 10^(-lambda) between.

    Args:
        epoch: t, 1 to T.
        epochs: T, at least 2.
        num_classes: K.
        lambda_last: lambda_T; it may exceed ln K, and then lambda rises.
        pace: for ablations, lambda is linear itself, or lambda_T in every epoch, or infinite: no sample is ever hard.

    Raises:
        ValueError: T is 1, for which the schedule has no value.
    """
    if epochs < 2:
        raise ValueError("The threshold of circular teaching is undefined for one epoch: train for at least two.")
    done = (epoch - 1) / (epochs - 1)
    match pace:
        case "published":
            return -math.log10((1 - done) * 10 ** -math.log(num_classes) + done * 10**-lambda_last)
        case "linear":
            return (1 - done) * math.log(num_classes) + done * lambda_last
        case "fixed":
            return lambda_last
        case "off":
            return math.inf


def warmup(epoch: int, warmup_epochs: int) -> float:
    """s(t) = min(1, t / warmup_epochs), for SmoothMix's mixing loss and SmoothAdv's radius."""
    return min(1.0, epoch / warmup_epochs) if warmup_epochs else 1.0


class StepSchedule(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """The rate falls to `factor` of itself right after each of the (1-based) epochs in `drops_after`."""

    name: Literal["step"] = "step"
    drops_after: tuple[int, ...] = (50, 100)
    factor: float = Field(default=0.1, gt=0, lt=1)

    def scale(self, epoch: int, epochs: int, part: float) -> float:  # noqa: ARG002 - one signature for all
        """The share of the peak rate in `epoch`, constant within it (METHODS section 10)."""
        return self.factor ** sum(epoch > drop for drop in self.drops_after)

    def stretched(self, ratio: float) -> Self:
        """The same shape for a run `ratio` times as long."""
        return self.model_copy(update={"drops_after": tuple(max(1, round(ratio * drop)) for drop in self.drops_after)})


class OneCycleSchedule(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Up in a straight line from `start` of the peak, during the first `rise` of the run, then down to zero.

    It reaches in a few epochs what steps reach in many; ours, for runs sized for a CPU (after L. Smith,
    "Super-convergence", 2018).
    """

    name: Literal["one_cycle"] = "one_cycle"
    rise: float = Field(default=0.3, gt=0, lt=1)
    start: float = Field(default=0.1, gt=0, le=1)

    def scale(self, epoch: int, epochs: int, part: float) -> float:
        """The share of the peak rate when `part` (0 to 1) of `epoch` is done."""
        progress = (epoch - 1 + part) / epochs
        if progress < self.rise:
            return self.start + (1 - self.start) * progress / self.rise
        return (1 - progress) / (1 - self.rise)

    def stretched(self, ratio: float) -> Self:  # noqa: ARG002 - one signature for all
        """Itself: its shape is given in shares of the run."""
        return self


class GrowingCrops(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Crops of `side` pixels at first, larger from time to time, and the whole image from `until` on.

    A run ends with images whole: its last epoch has them, however few it has.
    """

    SIZES: ClassVar[int] = 4
    """At most so many sizes of crops. Chosen: kernels are chosen, and networks compiled, for a size."""

    MULTIPLE: ClassVar[int] = 4
    """Pixels by whose multiples crops grow. Chosen: networks halve a side two or three times."""

    side: int = Field(ge=1, description="Pixels a side of the first crops.")
    until: float = Field(default=0.8, gt=0, lt=1, description="Share of the run after which images are whole.")

    def at(self, epoch: int, epochs: int, whole: int) -> int:
        """Pixels a side in `epoch`, for images of `whole` pixels; every size has its share of the epochs."""
        sizes = self.sizes(whole)
        reached = int((epoch - 1) * len(sizes) / (epochs * self.until) + 1e-9)  # rounding may leave it below
        return sizes[reached] if reached < len(sizes) and epoch < epochs else whole

    def sizes(self, whole: int) -> range:
        """Those of the crops, in pixels a side, for images of `whole` pixels."""
        steps = -(-(whole - self.side) // (self.SIZES * self.MULTIPLE))
        return range(self.side, whole, max(1, steps) * self.MULTIPLE)
