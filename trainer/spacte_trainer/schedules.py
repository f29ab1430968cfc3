"""What changes from epoch to epoch: the threshold lambda(t), the warm-up s(t) and the learning rate.

All epochs are 1-based, and every value is constant within an epoch.
"""

import math
from collections.abc import Sequence


def threshold(epoch: int, epochs: int, num_classes: int, lambda_last: float) -> float:
    """The loss above which a teacher calls a sample hard (METHODS 3.1).

        lambda(t) = -log10( 10^(-ln K) + (t-1)/(T-1) * (10^(-lambda_T) - 10^(-ln K)) )

    It starts at ln K, the cross-entropy of a uniform guess (the natural logarithm, although the schedule is
    in powers of ten), ends at `lambda_last`, and is linear in 10^(-lambda) between.

    Args:
        epoch: t, 1 to T.
        epochs: T, at least 2.
        num_classes: K.
        lambda_last: lambda_T; it may exceed ln K, and then lambda rises.

    Raises:
        ValueError: T is 1, for which the schedule has no value.
    """
    if epochs < 2:
        raise ValueError("The threshold of circular teaching is undefined for one epoch: train for at least two.")
    first = 10 ** -math.log(num_classes)
    last = 10**-lambda_last
    done = (epoch - 1) / (epochs - 1)
    return -math.log10((1 - done) * first + done * last)


def warmup(epoch: int, warmup_epochs: int) -> float:
    """s(t) = min(1, t / warmup_epochs), for SmoothMix's mixing loss and SmoothAdv's radius."""
    return min(1.0, epoch / warmup_epochs) if warmup_epochs else 1.0


def learning_rate(epoch: int, initial: float, drops_after: Sequence[int], factor: float = 0.1) -> float:
    """Step decay (METHODS section 10): `initial`, times `factor` once for every drop before this epoch.

    With drops after epochs 50 and 100: 1-50 initial, 51-100 a tenth, from 101 a hundredth.
    """
    return initial * factor ** sum(epoch > drop for drop in drops_after)
