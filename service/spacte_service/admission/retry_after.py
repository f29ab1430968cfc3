"""`Retry-After`: computed from the work that is here and the time that requests took lately."""

from time import monotonic, perf_counter

from .reservations import Reservations

FIRST_GUESS_S = 1.0  # until a request has been timed; chosen: of the order of a certificate on a CPU
NEWEST_WEIGHT = 0.1  # of the latest request in the mean time; chosen: about the last ten requests count
MOST_BACKLOGS = 8
"""A request without a reservation is told at most the time of so many times the present work. Chosen: the refused ones
are spread, and none is sent away for minutes."""
LONGEST_LINE_S = 600.0
"""Who would come later than that is told this, without a reservation. Chosen: a line of those who do not wait as they
are told, and so come again and again, does not grow for ever."""
HOLD_S = 2.0  # that room is kept for a request after its time; chosen: whole seconds and a slow connection
RESERVATIONS_PER_PERMIT = 16  # chosen: with 128 permits, 2,048 refused requests may come back at times of their own


class RetryAfter:
    """Estimates how long the present work takes, and gives every refused request a time of its own.

    The time is when the present work is done, and that of the requests that were refused before. So refused requests
    come back one after the other, each when there is a permit for it.
    """

    def __init__(self, permits: int, running: int) -> None:
        self.mean_s = FIRST_GUESS_S
        self.running_since: dict[object, float] = {}
        self.reservations = Reservations(RESERVATIONS_PER_PERMIT * permits)
        self._at_a_time = running
        self._timed = False
        self._last_time = 0.0

    def seconds(self, caller: str, key: str | None, requests: int) -> float:
        """When a refused request is to come back, in seconds; with a key, it gets a reservation for then.

        `requests` are here, running or waiting.
        """
        now = monotonic()
        oldest = next(iter(self.running_since.values()), None)
        # The mean cannot know yet that requests have become slow; the age of the oldest one can.
        each_s = max(self.mean_s, 0.0 if oldest is None else perf_counter() - oldest)
        work_s = each_s * max(1.0, requests / self._at_a_time)
        gap_s = self.mean_s / self._at_a_time  # from one request's end to the next one's
        if key is not None:
            return self.reservations.reserve(caller, key, now, now + work_s, gap_s) - now
        time = max(now + work_s, max(self._last_time, self.reservations.last()) + gap_s)
        self._last_time = min(time, now + MOST_BACKLOGS * work_s)
        return self._last_time - now

    def seconds_until_room(self, caller: str, key: str | None, room_in_s: float, gap_s: float) -> float:
        """The same where the samplers are too busy: there is room for one in `room_in_s`, then every `gap_s`.

        A request without a key gets a reservation, too: whoever comes from that caller at that time has it.
        """
        now = monotonic()
        if key is None and self.reservations.last() + gap_s > now + LONGEST_LINE_S:
            return LONGEST_LINE_S
        return self.reservations.reserve(caller, key, now, now + room_in_s, gap_s, whole_seconds=True) - now

    def promised(self) -> bool:
        """Whether requests that were refused are still to come, at the times that they were told."""
        return monotonic() < self.reservations.last() + HOLD_S

    def use_reservation(self, caller: str, key: str | None) -> bool:
        """Whether a request was told to come at about this time; its reservation is used up then."""
        return self.reservations.use(caller, key, monotonic())

    def begin(self, request: object) -> float:
        """A request begins to run; the time, by `perf_counter`."""
        self.running_since[request] = now = perf_counter()
        return now

    def answered(self, request: object) -> None:
        """A request got its answer: its time counts in the mean."""
        self.timed(perf_counter() - self.running_since[request])

    def end(self, request: object) -> bool:
        """A request runs no more; False where it never did."""
        return self.running_since.pop(request, None) is not None

    def timed(self, seconds: float) -> None:
        """Count a time in the mean."""
        self.mean_s = NEWEST_WEIGHT * seconds + (1 - NEWEST_WEIGHT) * self.mean_s if self._timed else seconds
        self._timed = True
