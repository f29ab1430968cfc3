"""The first noises of a certificate, drawn twice: their rows must get the same logits among other neighbours.

The theorem is about one function of the noisy image. A model that passed the check at load may still depend on the
rest of the batch, on earlier calls or on chance, and then nothing holds. So a certificate is given only where rows
that are drawn again come out the same; a difference is a fault of the model, whatever the votes.
"""

import numpy as np
from numpy.typing import NDArray

from spacte_workers.errors import NotOneFunctionError
from spacte_workers.shards import NoiseSource, Phase, Shard, Votes

from .tally import Tally

REDRAWN = 16
"""Selection noises that a certificate draws a second time. Chosen: .16 % of the noises at n = 10,000; what hangs on
neighbours or calls shows in any of them, and a fair coin a batch in every second certificate."""


class Redraw:
    """The second draw of the first selection noises, and its comparison with the first one.

    Args:
        source: of the selection noises.
        size: how many, at least 1.
        num_classes: K.

    Attributes:
        tally: of the second draw.
    """

    def __init__(self, source: NoiseSource, size: int, num_classes: int) -> None:
        self.size = size
        self.tally = Tally(source, Phase.SELECTION, (size,), num_classes, with_logits=size, again=True)
        self._drawn: dict[bool, dict[int, Votes]] = {False: {}, True: {}}

    def take(self, shard: Shard, votes: Votes) -> None:
        """Take the votes of a shard of either draw, and compare once both are complete.

        Raises:
            NotOneFunctionError: a row got other logits.
        """
        if shard.phase != Phase.SELECTION or shard.stop > self.size:
            return
        self._drawn[shard.again][shard.start] = votes
        if all(sum(_size(part) for part in parts.values()) == self.size for parts in self._drawn.values()):
            rounding = max(part.rounding for part in self._drawn[True].values())
            first_NK, second_NK = (_logits(parts) for parts in self._drawn.values())
            self._drawn = {False: {}, True: {}}
            if not same_logits(first_NK, second_NK, rounding):
                raise NotOneFunctionError


def same_logits(a_NK: NDArray[np.float32], b_NK: NDArray[np.float32], rounding: float) -> bool:
    """Whether logits are equal, and undefined in the same places.

    Args:
        a_NK, b_NK: of the same rows.
        rounding: what may differ, as part of what rows differ by.
    """
    defined_NK = np.where(np.isfinite(a_NK), a_NK, np.float32(0.0))
    allowed = rounding * float(np.abs(defined_NK - defined_NK.mean(0)).max())
    with np.errstate(invalid="ignore"):
        near_NK = np.abs(a_NK - b_NK) <= allowed
    return bool(((a_NK == b_NK) | near_NK | (np.isnan(a_NK) & np.isnan(b_NK))).all())


def _size(votes: Votes) -> int:
    return sum(votes.counts) + votes.invalid


def _logits(parts: dict[int, Votes]) -> NDArray[np.float32]:
    """[N, K] in the order of the noises."""
    found = [parts[start].logits_NK for start in sorted(parts)]
    return np.concatenate([logits_NK for logits_NK in found if logits_NK is not None])
