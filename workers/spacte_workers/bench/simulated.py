"""Votes without a network, from known class probabilities."""

from collections.abc import Sequence

import numpy as np

from spacte_workers.shards import Image, Shard


def simulated_votes(shard: Shard, probabilities: Sequence[float]) -> tuple[int, ...]:
    """Votes of a shard, drawn with the given class probabilities.

    Like real ones they are a function of the shard alone, and the votes of 0..9 are those of 0..4 plus 5..9: vote j
    comes from the j-th number of a stream keyed by seed, request, image and phase.

    Args:
        shard: which votes.
        probabilities: one per class, summing to 1.
    """
    request = int(shard.source.request_digest or "0", 16)
    key = (int(shard.source.seed, 16) ^ request ^ (shard.source.image_index << 8 | shard.phase)) % 2**128
    # Philox makes four numbers a step.
    bits = np.random.Philox(key=key)
    bits.advance(shard.start // 4)
    u = np.random.Generator(bits).random(shard.start % 4 + shard.size)[shard.start % 4 :]
    edges = np.cumsum(probabilities)[:-1]
    classes = np.searchsorted(edges, u, side="right")
    return tuple(np.bincount(classes, minlength=len(probabilities)).tolist())


def probabilities(image: Image) -> list[float]:
    """The class probabilities of a simulated image: its bytes, as float64."""
    return np.frombuffer(image.data, np.float64).tolist()


def simulated_image(probabilities: Sequence[float]) -> Image:
    """An image whose simulated votes have these class probabilities."""
    values = np.asarray(probabilities, np.float64)
    return Image(values.tobytes(), (1, 1, len(probabilities)), "float32")
