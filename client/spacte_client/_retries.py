"""When a failed attempt is worth another one, and how long to wait before it."""

import random
import time

from ._exceptions import APIConnectionError, APIError, APIStatusError, APITimeoutError, DeadlineExceededError

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 8.0
LONGEST_RETRY_AFTER_S = 60.0
"""A gateway that asks for more patience is not waited for: the error is raised, and says how long."""

LONGEST_AWAY_S = 300.0
"""A gateway that is started again has loaded its models by then."""

AWAY_STATUSES = frozenset({502, 503, 504})
RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


def is_retryable(error: APIError, *, draws: bool = False) -> bool:
    """Whether the same request may succeed later.

    A request whose idempotency key is still in use is our own earlier attempt, which is worth waiting for.

    Args:
        draws: whether the call is for noises to be drawn (see `Call`): one that took too long is not made again.
    """
    if isinstance(error, DeadlineExceededError) or (draws and took_too_long(error)):
        return False
    if isinstance(error, APIStatusError):
        return error.status_code in RETRIED_STATUSES or error.code == "idempotency_in_progress"
    return isinstance(error, APIConnectionError)


def took_too_long(error: APIError) -> bool:
    """Whether a request that arrived was given up for want of an answer: by us, or by a proxy (504)."""
    if isinstance(error, APIStatusError):
        return error.status_code == 504
    return isinstance(error, APITimeoutError) and error.sent


class Patience:
    """How long a gateway that has answered once may be away while something of it is waited for.

    `with patience:` goes around a request. An error of a gateway that is away is dropped, until that lasts too long.
    """

    def __init__(self) -> None:
        self._since: float | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if error is None:
            self._since = None
        return isinstance(error, APIError) and self._lasts(error)

    def _lasts(self, error: APIError) -> bool:
        """Whether `error` is that of a gateway that is away, as during a restart, and not for too long by now."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        away = isinstance(error, APIConnectionError) or (
            isinstance(error, APIStatusError) and error.status_code in AWAY_STATUSES
        )
        return away and now - self._since < LONGEST_AWAY_S


class Attempts:
    """The attempts at one logical call.

    Args:
        max_retries: attempts after the first.
        draws: as for `is_retryable`.
    """

    def __init__(self, max_retries: int, *, draws: bool = False) -> None:
        self.max_retries = max_retries
        self.draws = draws
        self.failed = 0

    def delay_after(self, error: APIError) -> float | None:
        """Seconds to wait before the next attempt, or None where `error` is the answer.

        0.5, 1, 2, 4, 8, 8, ... seconds less up to a quarter, so that callers who failed together do not come
        back together. Where the gateway named a time, that time and up to a quarter more: never earlier.
        """
        self.failed += 1
        if self.failed > self.max_retries or not is_retryable(error, draws=self.draws):
            return None
        named = error.retry_after if isinstance(error, APIStatusError) else None
        if named is None:
            longest = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** (self.failed - 1))
            return longest * random.uniform(0.75, 1.0)  # noqa: S311 - spreads load, guards nothing
        if named > LONGEST_RETRY_AFTER_S:
            return None
        return named * random.uniform(1.0, 1.25)  # noqa: S311
