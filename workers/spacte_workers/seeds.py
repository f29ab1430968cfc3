"""Where a request's seed is drawn: after the image has arrived, from the operating system's random source."""

import secrets

SEED_BYTES = 16
"""128 bits, so that no two requests share a seed and none can be guessed beforehand."""


def fresh_seed() -> str:
    """A seed as 32 hex digits."""
    return secrets.token_hex(SEED_BYTES)
