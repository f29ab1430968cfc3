"""How far a job is and how fast it goes, as `progress.json` says it."""

import os
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

State = Literal["running", "succeeded", "cancelled", "interrupted", "failed"]

WINDOW_S = 60.0
"""The rate is that of the last minute."""


class Pace:
    """Images a second over a sliding window.

    Args:
        window_s: its length in seconds.
        clock: seconds that never go back.
    """

    def __init__(self, window_s: float = WINDOW_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._window_s = window_s
        self._clock = clock
        self._done = 0
        self._marks: deque[tuple[float, int]] = deque([(clock(), 0)])

    def add(self, images: int) -> None:
        """So many more are finished."""
        self._done += images
        now = self._clock()
        if now - self._marks[-1][0] > self._window_s / 60:  # at most 60 marks a window
            self._marks.append((now, self._done))
        while len(self._marks) > 1 and self._marks[1][0] <= now - self._window_s:
            self._marks.popleft()

    def per_second(self) -> float | None:
        """Images a second, or None before any is finished."""
        since, before = self._marks[0]
        elapsed = self._clock() - since
        return (self._done - before) / elapsed if self._done > before and elapsed > 0 else None


def snapshot(
    state: State,
    attempt: int,
    total: int,
    counts: Mapping[str, int],
    pace: Pace,
    started_at: datetime,
    error: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The contents of `progress.json`.

    Args:
        state: where the driver stands.
        attempt: which driver of the job this is, from 1.
        total: images of the job.
        counts: finished images by outcome, over all attempts.
        pace: of this attempt.
        started_at: when this attempt began.
        error: code and detail, where the driver failed.
    """
    remaining = total - sum(counts.values())
    rate = pace.per_second() if state == "running" else None
    return {
        "state": state,
        "attempt": attempt,
        "counts": {"total": total, **counts, "remaining": remaining},
        "images_per_minute": None if rate is None else round(60 * rate, 3),
        "eta_s": None if not rate else round(remaining / rate, 1),
        "started_at": started_at.isoformat(),
        "updated_at": datetime.now(UTC).isoformat(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "error": error,
    }
