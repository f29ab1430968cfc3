"""The work that is here, in seconds of the samplers: what a request asks for, and when there is room for it."""

from collections.abc import Hashable
from dataclasses import dataclass
from time import perf_counter

NEWEST_WEIGHT = 0.2  # of the latest answer in the pace; chosen: about the last five count
LEAST_PACE, MOST_PACE = 0.05, 5.0
"""Bounds of the pace. Chosen: rules that stop early save nine tenths, and a machine that others use halves the rate."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a request asks of the samplers. Nothing is estimated where `seconds` is 0.

    Attributes:
        model: for which model; requests of one model go the shortest first, and models take turns.
        seconds: that all samplers take for it, at their rate with that model; with a deadline `first_s`.
        together_s: the same of all images of one HTTP request, for the first; 0 for the others, which are not asked
            whether they can be answered in time.
        first_s: the part of them after which there is a certificate at all.
        deadline_s: the time that its caller allows; None for no limit.
    """

    model: str | None = None
    seconds: float = 0.0
    together_s: float = 0.0
    first_s: float = 0.0
    deadline_s: float | None = None


class Work:
    """The demands of all requests that are here, and how fast they are answered.

    Args:
        within_s: a request waits so long that it is answered within this time; one that takes longer than half of it
            waits at most as long as it takes.
    """

    def __init__(self, within_s: float) -> None:
        self._within_s = within_s
        self._demands: dict[Hashable, Demand] = {}
        self._since = perf_counter()  # the latest end, or when the first request came
        self._intervals_s = 0.0
        self._demanded_s = 0.0

    @property
    def pace(self) -> float:
        """Seconds that pass for each second of demand: above 1 where the gateway or others slow the samplers down.

        It is below 1 where requests stop early.
        """
        if not self._demanded_s:
            return 1.0
        return min(MOST_PACE, max(LEAST_PACE, self._intervals_s / self._demanded_s))

    def add(self, request: Hashable, demand: Demand) -> None:
        """A request was taken in."""
        if demand.seconds:
            if not self._demands:
                self._since = perf_counter()
            self._demands[request] = demand

    def remove(self, request: Hashable) -> None:
        """A request is not here any more, without an answer."""
        self._demands.pop(request, None)

    def answered(self, request: Hashable) -> None:
        """A request got its answer, and leaves soon: the time since the last one counts in the pace.

        It does not where that request had a deadline, until which it may have drawn more than it demands.
        """
        demand = self._demands.pop(request, None)
        if demand is None:
            return
        now = perf_counter()
        if demand.deadline_s is None:
            weight = NEWEST_WEIGHT if self._demanded_s else 1.0
            self._intervals_s += weight * (now - self._since - self._intervals_s)
            self._demanded_s += weight * (demand.seconds - self._demanded_s)
        self._since = now

    def ahead_s(self, demand: Demand) -> float:
        """Seconds that the samplers are busy with other requests before they have done this one."""
        if not self._demands:
            return 0.0
        of: dict[str | None, float] = {}
        for each in self._demands.values():
            if each.model != demand.model or each.seconds <= demand.seconds:
                of[each.model] = of.get(each.model, 0.0) + each.seconds
        same = of.pop(demand.model, 0.0)
        ahead = same + sum(min(other, same + demand.seconds) for other in of.values())
        begun = min(perf_counter() - self._since, self.pace * min(each.seconds for each in self._demands.values()))
        return max(0.0, self.pace * ahead - begun)

    def room_in_s(self, demand: Demand, *, spare: bool = False) -> float:
        """Seconds until this request can be taken in and be answered in time; 0 where that is so now.

        Where room is kept for others, a request takes only `spare` one: half of the time that it might wait.
        """
        if not demand.together_s:
            return 0.0
        seconds = self.pace * demand.together_s
        most = max(self._within_s - seconds, seconds)
        if demand.deadline_s is not None:
            most = max(0.0, demand.deadline_s - self.pace * demand.first_s)
        return max(0.0, self.ahead_s(demand) - (most / 2 if spare else most))

    def total_s(self) -> float:
        """Seconds until all that is here is done."""
        return self.pace * sum(each.seconds for each in self._demands.values())
