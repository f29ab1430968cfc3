"""How much is left of the time that a caller allows. Light to import."""

import time


class Deadline:
    """So many `milliseconds` (None: no limit) from `since`, by `time.perf_counter`, or from now."""

    def __init__(self, milliseconds: float | None, since: float | None = None) -> None:
        start = time.perf_counter() if since is None else since
        self._end = None if milliseconds is None else start + milliseconds / 1000

    @property
    def seconds_left(self) -> float | None:
        """At least 0; None where there is no limit."""
        return None if self._end is None else max(0.0, self._end - time.perf_counter())

    @property
    def passed(self) -> bool:
        """Whether no time is left."""
        return self.seconds_left == 0.0
