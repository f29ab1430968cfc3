"""When a failed attempt is worth another one, how long to wait before it, and how long in all."""

import math
import random
import time

from ._constants import FIRST_DELAY_S, JITTER, LONGEST_DELAY_S, LONGEST_OUTAGE_S, LONGEST_RETRY_AFTER_S
from ._exceptions import APIConnectionError, APIError, APIStatusError, APITimeoutError, DeadlineExceededError

UNAVAILABLE_STATUSES = frozenset({502, 503, 504})
RETRIED_STATUSES = frozenset({408, 429, 500, 507}) | UNAVAILABLE_STATUSES


class Deadline:
    """A time `seconds` from now on the monotonic clock; never where None."""

    def __init__(self, seconds: float | None) -> None:
        self._at = math.inf if seconds is None else time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until then: 0 once it has passed."""
        return max(0.0, self._at - time.monotonic())


class Backoff:
    """The failed attempts at one call, and the pause before the next; see `Call` for `draws_noise`."""

    def __init__(self, max_retries: int, *, draws_noise: bool = False) -> None:
        self.max_retries = max_retries
        self.draws_noise = draws_noise
        self.failed = 0

    def delay_after(self, error: APIError) -> float | None:
        """Seconds to wait before the next attempt, or None where there is to be none.

        0.5, 1, 2, 4, 8, 8, ... seconds less up to a quarter, so that callers who failed together do not come
        back together. Where the gateway named a time, that time and up to a quarter more: never earlier.
        """
        self.failed += 1
        if self.failed > self.max_retries or not self._may_succeed_later(error):
            return None
        jitter = JITTER * random.random()  # noqa: S311 - spreads load, guards nothing
        named = error.retry_after if isinstance(error, APIStatusError) else None
        if named is None:
            return min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** (self.failed - 1)) * (1 - jitter)
        return None if named > LONGEST_RETRY_AFTER_S else named * (1 + jitter)

    def _may_succeed_later(self, error: APIError) -> bool:
        """An idempotency key that is still in use is that of our own earlier attempt, which is worth waiting for."""
        if (
            isinstance(error, DeadlineExceededError)
            or _ended_at_endpoint(error)
            or (self.draws_noise and _timed_out(error))
        ):
            return False
        if isinstance(error, APIStatusError):
            return error.status_code in RETRIED_STATUSES or error.code == "idempotency_in_progress"
        return isinstance(error, APIConnectionError)


class GracePeriod:
    """How long a gateway that has answered once may be away, as during a restart, while a job is waited for.

    `with grace:` goes around a request: the error of a gateway that is away is suppressed until the period ends.
    """

    def __init__(self) -> None:
        self._end: Deadline | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if error is None:
            self._end = None
            return False
        self._end = self._end or Deadline(LONGEST_OUTAGE_S)
        unavailable = isinstance(error, APIStatusError) and error.status_code in UNAVAILABLE_STATUSES
        return (unavailable or isinstance(error, APIConnectionError)) and self._end.left() > 0


def _ended_at_endpoint(error: APIError) -> bool:
    """Whether noises were drawn and the model's endpoint failed on them: to ask for others is not for a program."""
    return isinstance(error, APIStatusError) and error.code == "endpoint_failed"


def _timed_out(error: APIError) -> bool:
    """Whether a request that arrived was given up for want of an answer: by this client, or by a proxy (504)."""
    if isinstance(error, APIStatusError):
        return error.status_code == 504
    return isinstance(error, APITimeoutError) and error.sent
