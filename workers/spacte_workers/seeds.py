"""Where a request's seed is drawn: after the image has arrived, from the operating system's random source."""

import hashlib
import secrets

from spacte_client.types import ImageParams, SeedSource

SEED_BYTES = 16
"""128 bits, so that no two requests share a seed and none can be guessed beforehand."""


def fresh_seed() -> str:
    """A seed as 32 hex digits."""
    return secrets.token_hex(SEED_BYTES)


def attack_seed(job_seed: str, index: int) -> str:
    """The seed of the attack on one image of a job: as good as independent of those of its certificate."""
    return hashlib.blake2b(f"{job_seed}/attack/{index}".encode(), digest_size=SEED_BYTES).hexdigest()


def seed_of(params: ImageParams) -> tuple[str, SeedSource]:
    """The seed that a caller chose, or a fresh one; and which of them it is."""
    return (params.seed, "caller") if params.seed else (fresh_seed(), "service")
