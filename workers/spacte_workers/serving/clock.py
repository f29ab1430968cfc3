"""The times of one request, as its answer states them."""

import time


class RequestClock:
    """The times of one request: its arrival, its first noises, now."""

    def __init__(self) -> None:
        self.arrived = self._started = time.perf_counter()

    def start(self) -> None:
        """The first noises are handed out."""
        self._started = time.perf_counter()

    @property
    def queue_ms(self) -> float:
        """From the arrival to the first noises."""
        return 1000 * (self._started - self.arrived)

    def elapsed_ms(self) -> float:
        """From the first noises until now."""
        return 1000 * (time.perf_counter() - self._started)
