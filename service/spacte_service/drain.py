"""Shutting down: no new work is taken, and what is in flight is finished."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from .problems import ProblemError

TAKEOVER_S = 5.0  # `Retry-After` while draining; chosen: another gateway answers within about that time


@dataclass
class Drain:
    """Requests in flight, and whether more are taken."""

    begun: bool = False  # whether the service has been asked to stop
    in_flight: int = 0  # requests being worked on

    def begin(self) -> None:
        """Take no more work."""
        self.begun = True

    @contextmanager
    def request(self) -> Generator[None]:
        """Count a request as in flight. Raises ProblemError: 503 once the service has been asked to stop."""
        if self.begun:
            sentence = "The service is shutting down; try again in a moment, when another has taken over."
            raise ProblemError("draining", sentence, retry_after_s=TAKEOVER_S)
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
