"""When a failed attempt is worth another one, and how long to wait before it."""

import random

from ._exceptions import APIConnectionError, APIError, APIStatusError, DeadlineExceededError

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 8.0
LONGEST_RETRY_AFTER_S = 60.0
"""A gateway that asks for more patience is not waited for: the error is raised, and says how long."""

RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


def is_retryable(error: APIError) -> bool:
    """Whether the same request may succeed later.

    A request whose idempotency key is still in use is our own earlier attempt, which is worth waiting for.
    """
    if isinstance(error, DeadlineExceededError):
        return False
    if isinstance(error, APIStatusError):
        return error.status_code in RETRIED_STATUSES or error.code == "idempotency_in_progress"
    return isinstance(error, APIConnectionError)


class Attempts:
    """The attempts at one logical call.

    Args:
        max_retries: attempts after the first.
    """

    def __init__(self, max_retries: int) -> None:
        self.max_retries = max_retries
        self.failed = 0

    def delay_after(self, error: APIError) -> float | None:
        """Seconds to wait before the next attempt, or None where `error` is the answer.

        0.5, 1, 2, 4, 8, 8, ... seconds less up to a quarter, so that callers who failed together do not come
        back together. Where the gateway named a time, that time and up to a quarter more: never earlier.
        """
        self.failed += 1
        if self.failed > self.max_retries or not is_retryable(error):
            return None
        named = error.retry_after if isinstance(error, APIStatusError) else None
        if named is None:
            longest = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** (self.failed - 1))
            return longest * random.uniform(0.75, 1.0)  # noqa: S311 - spreads load, guards nothing
        if named > LONGEST_RETRY_AFTER_S:
            return None
        return named * random.uniform(1.0, 1.25)  # noqa: S311
