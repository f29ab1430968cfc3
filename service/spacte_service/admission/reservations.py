"""Reservations of refused requests: one that comes back at its time gets the next free permit.

A reservation is known by its caller and the `Idempotency-Key` of the request, which is the same at every attempt. It
keeps no permit free: until its request comes back, others use what there is.
"""

from collections import Counter, OrderedDict
from dataclasses import dataclass

EARLY_S = 0.05  # that a request may come too early; chosen: timers differ by a few milliseconds
GRACE_S = 5.0
GRACE = 0.5
"""A reservation is good for so many seconds after its time, and for this part of the wait that was named. Chosen: the
header `Retry-After` is in whole seconds, and clients add up to a quarter so as not to come back all at once."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """The time that a request was told, and until when it may come, by `time.monotonic`."""

    time: float
    until: float


class Reservations:
    """At most `most` reservations, in the order of their times; a caller with few displaces the one with the most."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._made: OrderedDict[tuple[str, str], Reservation] = OrderedDict()
        self._of: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._made)

    def last(self) -> float:
        """The latest time; 0 where there is none."""
        return next(reversed(self._made.values())).time if self._made else 0.0

    def reserve(self, caller: str, key: str, now: float, earliest: float, gap: float) -> float:
        """The time at which this request is to come back: after all others, or as it was told, where it came too early.

        At the `earliest` time there will be a permit at all; `gap` seconds are between the ends of two requests.
        """
        self._drop_expired(now)
        known = self._made.get((caller, key))
        if known is not None:
            if known.time > now:
                return known.time
            self._drop((caller, key))
        time = max(earliest, self.last() + gap)
        if len(self._made) < self._most or self._displace_for(caller):
            self._made[caller, key] = Reservation(time, time + GRACE * (time - now) + GRACE_S)
            self._of[caller] += 1
        return time

    def use(self, caller: str, key: str, now: float) -> bool:
        """Whether this request was told to come at about this time; its reservation is used up then."""
        found = self._made.get((caller, key))
        if found is None or now < found.time - EARLY_S:
            return False
        self._drop((caller, key))
        return now <= found.until

    def _displace_for(self, caller: str) -> bool:
        greediest, most = self._of.most_common(1)[0]
        if most <= self._of[caller] + 1:
            return False
        self._drop(next(request for request in reversed(self._made) if request[0] == greediest))
        return True

    def _drop_expired(self, now: float) -> None:
        """Drop what is no longer good, from the first in line on."""
        while self._made:
            request, first = next(iter(self._made.items()))
            if now <= first.until:
                return
            self._drop(request)

    def _drop(self, request: tuple[str, str]) -> None:
        del self._made[request]
        self._of[request[0]] -= 1
        if not self._of[request[0]]:
            del self._of[request[0]]
