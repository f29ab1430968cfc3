"""A driver's progress on the terminal."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any


@contextmanager
def shown() -> Generator[Callable[[dict[str, Any]], None]]:
    """A progress bar on standard error where that is a terminal; give it the contents of `progress.json`."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting the samplers", total=None)

        def show(progress: dict[str, Any]) -> None:
            counts = progress["counts"]
            done = counts["total"] - counts["remaining"]
            bar.update(task, description=line(progress), completed=done, total=counts["total"])

        yield show


def line(progress: dict[str, Any]) -> str:
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
