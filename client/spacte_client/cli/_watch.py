"""A job on the terminal: a progress bar, and Ctrl-C that detaches first and cancels second."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from spacte_client._constants import PROGRESS_POLL_S, SECOND_CTRL_C_S
from spacte_client._exceptions import NotFoundError, SpacteError
from spacte_client._retries import GracePeriod

if TYPE_CHECKING:
    from spacte_client._client import Client
    from spacte_client.types import Job, JobCounts


def watch_job(client: "Client", job_id: str, *, show_progress: bool) -> "Job | None":
    """The job once it has ended; None where Ctrl-C was pressed first."""
    try:
        if show_progress:
            _show_progress(client, job_id)
        return client.jobs.wait(job_id)
    except KeyboardInterrupt:
        typer.echo(
            f"\nDetached: the job goes on. Come back with `spacte jobs wait {job_id}`, or press Ctrl-C again now "
            "to cancel it.",
            err=True,
        )
    try:
        time.sleep(SECOND_CTRL_C_S)
    except KeyboardInterrupt:
        job = client.jobs.cancel(job_id)
        typer.echo(f"{job.id} {job.state}; what is finished stays.", err=True)
    return None


def counts_text(counts: "JobCounts") -> str:
    """`12 of 60 images, 10 certified, 1 abstained, 1 errored`."""
    total = "" if counts.total is None else f" of {counts.total:,}"
    return (
        f"{counts.done:,}{total} images, {counts.certified:,} certified, {counts.abstained:,} abstained, "
        f"{counts.errored:,} errored"
    )


def _show_progress(client: "Client", job_id: str) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("waiting", total=None)
        start = time.monotonic()
        first: int | None = None
        for counts, rate in _counts(client, job_id):
            first = counts.done if first is None else first
            if rate is None:
                rate = 60 * (counts.done - first) / max(time.monotonic() - start, 1.0)
            text = counts_text(counts) + (f", {rate:,.0f} a minute" if rate > 0 else "")
            progress.update(bar, description=text, completed=counts.done, total=counts.total)


def _counts(client: "Client", job_id: str) -> "Iterator[tuple[JobCounts, float | None]]":
    """Counts and images a minute: from the job's events, or by polling where the gateway has none or lost them."""
    job = client.jobs.get(job_id)
    yield job.counts, None
    try:
        for event in client.jobs.events(job_id):
            if event.event == "progress":
                yield event.counts, event.images_per_minute
    except NotFoundError as error:
        if error.code != "not_found":
            raise
    except SpacteError:
        pass
    grace = GracePeriod()
    while True:
        with grace:
            job = client.jobs.get(job_id)
        if job.ended:
            return
        yield job.counts, None
        time.sleep(PROGRESS_POLL_S)
