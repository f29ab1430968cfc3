"""Reservations of refused requests: one that comes back at its time gets the next free permit.

A reservation is known by its caller and the `Idempotency-Key` of the request, which is the same at every attempt;
without a key, by its caller and the time. It keeps no permit free: until its request comes back, others use what there
is.
"""

import math
from collections import Counter, OrderedDict
from dataclasses import dataclass
from itertools import count

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
        self._made: OrderedDict[tuple[str, str | int], Reservation] = OrderedDict()  # a number stands for no key
        self._numbers = count()
        self._line_ends = 0.0
        self._of: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._made)

    def last(self) -> float:
        """When the last of the line could be taken in; 0 where there is none."""
        return self._line_ends if self._made else 0.0

    def reserve(
        self, caller: str, key: str | None, now: float, earliest: float, gap: float, *, whole_seconds: bool = False
    ) -> float:
        """The time at which this request is to come back: after all others, or as it was told, where it came too early.

        At the `earliest` time there will be a permit at all; `gap` seconds are between the ends of two requests. In
        `whole_seconds` from now, as `Retry-After` tells it, nobody else can be there before the one who was told.
        """
        self._drop_expired(now)
        request = caller, next(self._numbers) if key is None else key
        known = self._made.get(request)
        if known is not None:
            if known.time > now:
                return known.time
            self._drop(request)
        line = max(earliest, self.last() + gap)
        time = now + math.ceil(line - now) if whole_seconds else line
        if len(self._made) < self._most or self._displace_for(caller):
            self._made[request] = Reservation(time, time + GRACE * (time - now) + GRACE_S)
            self._of[caller] += 1
            self._line_ends = line
        return time

    def use(self, caller: str, key: str | None, now: float) -> bool:
        """Whether this request was told to come at about this time; its reservation is used up then."""
        request = (caller, key) if key is not None else self._due_without_key(caller, now)
        found = self._made.get(request) if request else None
        if request is None or found is None or now < found.time - EARLY_S:
            return False
        self._drop(request)
        return now <= found.until

    def _due_without_key(self, caller: str, now: float) -> tuple[str, str | int] | None:
        """The first reservation of a caller that names no key and whose time has come."""
        self._drop_expired(now)
        for request, reservation in self._made.items():
            if reservation.time - EARLY_S > now:
                return None
            if request[0] == caller and isinstance(request[1], int) and now <= reservation.until:
                return request
        return None

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

    def _drop(self, request: tuple[str, str | int]) -> None:
        del self._made[request]
        self._of[request[0]] -= 1
        if not self._of[request[0]]:
            del self._of[request[0]]
