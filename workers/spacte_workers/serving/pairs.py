"""Two functions vote on the same noises, on all samplers: what `certification.carrying` asks for."""

import asyncio

from spacte_client.types import Certificate
from spacte_workers.certification.carrying import (
    CarryOver,
    Pairs,
    Rows,
    carried_over,
    differences,
    reference_pairs,
    selected_class,
)
from spacte_workers.certification.certificates import ModelIdentity
from spacte_workers.scheduling.coordinator import Coordinator
from spacte_workers.scheduling.queues import Priority
from spacte_workers.shards import Image

Keys = tuple[str, str]
"""What samplers call the function that cast the votes, and the one that a certificate is about."""


async def about_reference(
    coordinator: Coordinator, keys: Keys, image: Image, voted: Certificate, about: ModelIdentity, priority: Priority
) -> Certificate:
    """A certificate carried over to the plain float32 network."""
    pairs = reference_pairs(voted, about)
    voter_N, about_N = await _votes(coordinator, keys, image, pairs, priority)
    return carried_over(voted, about, differences(selected_class(voted), voter_N, about_N), pairs)


async def carried_if_cheaper(
    coordinator: Coordinator, keys: Keys, image: Image, steps: CarryOver, priority: Priority
) -> Certificate | None:
    """Draw what a `carry_over` asks for, until it ends."""
    votes = None
    while True:
        try:
            pairs = next(steps) if votes is None else steps.send(votes)
        except StopIteration as end:
            return end.value
        votes = await _votes(coordinator, keys, image, pairs, priority)


async def _votes(
    coordinator: Coordinator, keys: Keys, image: Image, pairs: Pairs, priority: Priority
) -> tuple[Rows, Rows]:
    draws = (coordinator.draw(key, image, pairs.run(), priority=priority) for key in keys)
    voter_N, about_N = await asyncio.gather(*draws)
    return voter_N, about_N
