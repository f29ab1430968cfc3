"""Promises to callers who were refused: who comes back at the time that was named is let in before all others.

A ticket is known by its caller and the `Idempotency-Key` of the request, which is the same at every attempt. It
holds no place free: while its owner is away, others use what there is.
"""

from collections import Counter, OrderedDict
from dataclasses import dataclass

EARLY_S = 0.05
"""Clocks differ by so much: who comes this early comes in time."""

PATIENCE_S = 5.0
PATIENCE = 0.5
"""A ticket is good for so many seconds after its time, and for this part of the time that its owner was to wait:
the header `Retry-After` is in whole seconds, and clients wait a little longer so as not to come all at once."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """When its owner was told to come, and how long it is good; by `time.monotonic`."""

    due: float
    until: float


class Tickets:
    """The tickets that are out, in the order of their times.

    Args:
        most: no more than this; a caller with few takes the place of the latest of the caller with most.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._out: OrderedDict[tuple[str, str], Ticket] = OrderedDict()
        self._held: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._out)

    def last_due(self) -> float:
        """When the last one in line is to come; 0 where nobody is."""
        return next(reversed(self._out.values())).due if self._out else 0.0

    def issue(self, caller: str, key: str, now: float, earliest: float, gap: float) -> float:
        """When this request is to come back: behind all others; or as it was told, where it came too early.

        Args:
            caller: whose it is.
            key: which of theirs.
            now: the time.
            earliest: when there will be room at all.
            gap: seconds between one request's end and the next one's, while the service is full.
        """
        self._forget(now)
        known = self._out.get((caller, key))
        if known is not None and known.due > now:
            return known.due
        if known is not None:
            self._drop((caller, key))
        due = max(earliest, self.last_due() + gap)
        if len(self._out) < self._most or self._displace_for(caller):
            self._out[caller, key] = Ticket(due, due + PATIENCE * (due - now) + PATIENCE_S)
            self._held[caller] += 1
        return due

    def redeem(self, caller: str, key: str, now: float) -> bool:
        """Whether this request was told to come at about this time; its ticket is used up then."""
        ticket = self._out.get((caller, key))
        if ticket is None or now < ticket.due - EARLY_S:
            return False
        self._drop((caller, key))
        return now <= ticket.until

    def _displace_for(self, caller: str) -> bool:
        greediest, most = self._held.most_common(1)[0]
        if most <= self._held[caller] + 1:
            return False
        self._drop(next(place for place in reversed(self._out) if place[0] == greediest))
        return True

    def _forget(self, now: float) -> None:
        """Drop what is no longer good, as far as it stands first in line."""
        while self._out:
            place, ticket = next(iter(self._out.items()))
            if now <= ticket.until:
                return
            self._drop(place)

    def _drop(self, place: tuple[str, str]) -> None:
        del self._out[place]
        self._held[place[0]] -= 1
        if not self._held[place[0]]:
            del self._held[place[0]]
