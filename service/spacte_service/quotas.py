"""Quotas: how much one API key may take, or one address where no key is asked for.

Requests and noises are counted here, by each gateway for itself, and streams in `open_streams`. Bytes of uploads and
jobs are counted by the store, and so by all gateways together.
"""

import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from threading import Lock

from .problems import ProblemError
from .quota_settings import QuotaName, Quotas

SLOTS = 60  # of a window; chosen: what is taken counts up to a sixtieth longer than it has to
MOST_COUNTS = 10_000  # windows that are kept before those that ran out are dropped; chosen: some megabytes

WINDOWS: dict[QuotaName, float] = {"requests": 60.0, "noises": 3600.0}
"""Seconds over which a quota counts."""

WORDS: dict[QuotaName, tuple[str, str]] = {
    "requests": ("{:,} requests in a minute", "send fewer"),
    "noises": ("{:,} noises in an hour", "ask for fewer"),
    "upload_bytes": ("{:,} bytes of uploads", "delete files that you no longer need"),
    "jobs": ("{:,} jobs at a time", "wait for one to end, or cancel it"),
    "streams": ("{:,} open streams", "close one first"),
}
"""What a quota is of, and what helps."""


class QuotaReachedError(Exception):
    """A quota that the store counts is used up."""

    def __init__(self, name: QuotaName, limit: int) -> None:
        super().__init__(name, limit)
        self.name: QuotaName = name
        self.limit = limit


def over_quota(name: QuotaName, limit: int, retry_after_s: float | None = None) -> ProblemError:
    """The 429 of a caller whose quota is used up; with a time where time helps."""
    amount, remedy = WORDS[name]
    when = "" if retry_after_s is None else f", or come back in {max(1, round(retry_after_s))} s"
    sentence = f"Your quota of {amount.format(limit)} is used up: {remedy}{when}."
    return ProblemError("overloaded", sentence, quota=name, retry_after_s=retry_after_s)


@contextmanager
def quotas_as_problems() -> Generator[None]:
    """Raise what the store refuses as a problem."""
    try:
        yield
    except QuotaReachedError as error:
        raise over_quota(error.name, error.limit) from None


class RollingCount:
    """What was taken within the last `window_s`; never less than that."""

    def __init__(self, window_s: float) -> None:
        self._slot_s = window_s / SLOTS
        self._taken: deque[list[int]] = deque()  # slot, amount

    def __bool__(self) -> bool:
        return bool(self._taken)

    def drop_old(self, now: float) -> None:
        """Forget what lies before the window."""
        while self._taken and self._ends(self._taken[0][0]) <= now:
            self._taken.popleft()

    def take(self, amount: int, limit: int, now: float) -> float:
        """Take an amount if `limit` allows, and return 0; else the seconds until it does, infinite for never."""
        self.drop_old(now)
        slot = int(now / self._slot_s)
        over = sum(taken for _, taken in self._taken) + amount - limit
        if over <= 0:
            if not self._taken or self._taken[-1][0] < slot:
                self._taken.append([slot, 0])
            self._taken[-1][1] += amount
            return 0.0
        for old, taken in self._taken:
            over -= taken
            if over <= 0:
                return self._ends(old) - now
        return inf

    def give_back(self, amount: int) -> None:
        """Give back of what was taken last."""
        for entry in reversed(self._taken):
            part = min(amount, entry[1])
            entry[1] -= part
            amount -= part

    def _ends(self, slot: int) -> float:
        """When all that was taken in a slot is out of the window."""
        return (slot + 1 + SLOTS) * self._slot_s


@dataclass
class Noises:
    """Noises that a caller asked for; `drawn` says how many count in the end."""

    drawn: int


@dataclass
class QuotaCounts:
    """Counts requests and noises of callers, which are known by an id. It may be used in several threads."""

    _counts: dict[tuple[QuotaName, str], RollingCount] = field(
        default_factory=dict[tuple[QuotaName, str], RollingCount]
    )
    _lock: Lock = field(default_factory=Lock)

    def request(self, caller: str, quotas: Quotas) -> None:
        """Count a request. Raises ProblemError: 429."""
        self._take("requests", caller, 1, quotas.requests)

    @contextmanager
    def noises(self, caller: str, quotas: Quotas, asked: int) -> Generator[Noises]:
        """Count the noises of a request, at the end those that were drawn. Raises ProblemError: 429."""
        self._take("noises", caller, asked, quotas.noises)
        noises = Noises(asked)
        try:
            yield noises
        except ProblemError:  # it was refused; whoever leaves in the middle has taken what it asked for
            noises.drawn = 0
            raise
        finally:
            with self._lock:
                if count := self._counts.get(("noises", caller)):
                    count.give_back(asked - noises.drawn)

    def _take(self, name: QuotaName, caller: str, amount: int, limit: int | None) -> None:
        if limit is None:
            return
        now = time.monotonic()
        with self._lock:
            if len(self._counts) >= MOST_COUNTS:
                self._drop_old(now)
            count = self._counts.setdefault((name, caller), RollingCount(WINDOWS[name]))
            wait_s = count.take(amount, limit, now)
        if wait_s:
            raise over_quota(name, limit, wait_s if wait_s < inf else None)

    def _drop_old(self, now: float) -> None:
        for count in self._counts.values():
            count.drop_old(now)
        self._counts = {key: count for key, count in self._counts.items() if count}
