"""How far a job is and how fast it goes: `progress.json`, and the same on a terminal."""

import os
import socket
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

State = Literal["running", "succeeded", "cancelled", "interrupted", "failed"]

WINDOW_S = 60.0
"""The rate is that of the last minute. Chosen: long enough for steady figures at an image every few seconds."""


class Throughput:
    """Images a second over a sliding window."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._done = 0
        self._marks: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])

    def add(self, images: int) -> None:
        """So many more are finished."""
        self._done += images
        now = time.monotonic()
        if now - self._marks[-1][0] > self._window_s / 60:  # at most 60 marks a window
            self._marks.append((now, self._done))
        while len(self._marks) > 1 and self._marks[1][0] <= now - self._window_s:
            self._marks.popleft()

    def per_second(self) -> float | None:
        """Images a second, or None before any is finished."""
        since, before = self._marks[0]
        elapsed = time.monotonic() - since
        return (self._done - before) / elapsed if self._done > before and elapsed > 0 else None


def snapshot(
    state: State,
    attempt: int,
    total: int,
    counts: Mapping[str, int],
    throughput: Throughput,
    started_at: datetime,
    error: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The contents of `progress.json`.

    `counts` are finished images by outcome, over all attempts; `throughput` and `started_at` are those of this attempt;
    `error` has a code and a detail.
    """
    remaining = total - sum(counts.values())
    rate = throughput.per_second() if state == "running" else None
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


@contextmanager
def progress_bar() -> Generator[Callable[[dict[str, Any]], None]]:
    """A bar on standard error where that is a terminal; give it the contents of `progress.json`."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting the samplers", total=None)

        def show(progress: dict[str, Any]) -> None:
            counts = progress["counts"]
            done = counts["total"] - counts["remaining"]
            bar.update(task, description=_line(progress), completed=done, total=counts["total"])

        yield show


def _line(progress: dict[str, Any]) -> str:
    """`12 of 60 images, 10 certified, 1 abstained, 1 errored, 40 a minute, 1 min 12 s left`."""
    counts = progress["counts"]
    parts = [f"{counts['total'] - counts['remaining']:,} of {counts['total']:,} images"]
    parts += [f"{counts[name]:,} {name}" for name in ("certified", "abstained", "errored")]
    if progress["images_per_minute"]:
        parts.append(f"{progress['images_per_minute']:,.0f} a minute")
    if progress["eta_s"]:
        minutes, seconds = divmod(round(progress["eta_s"]), 60)
        hours, minutes = divmod(minutes, 60)
        left = f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
        parts.append(f"{left} left")
    return ", ".join(parts)
