"""A job on the terminal: a progress bar, and Ctrl-C that detaches first and cancels second."""

from collections.abc import Iterator
from time import monotonic, sleep
from typing import TYPE_CHECKING

import typer

from spacte_client._exceptions import NotFoundError, SpacteError
from spacte_client._retries import GracePeriod

if TYPE_CHECKING:
    from spacte_client._client import Client
    from spacte_client.types import Job, JobCounts

SECOND_CTRL_C_S = 3.0
"""For so long after the first Ctrl-C a second one cancels the job."""

INTERRUPTED = 130
POLL_S = 1.0


def watch_job(client: "Client", job_id: str, *, as_json: bool) -> int:
    """Follow a job to its end, and print how it ended.

    Returns:
        The exit status: 0 where it succeeded, 1 where it did not, 130 after Ctrl-C.
    """
    from .jobs import show_job

    try:
        if not as_json:
            _follow(client, job_id)
        job = client.jobs.wait(job_id)
    except KeyboardInterrupt:
        return _detach(client, job_id)
    show_job(job, as_json=as_json)
    return 0 if job.state == "succeeded" else 1


def counts_text(counts: "JobCounts") -> str:
    """`12 of 60 images, 10 certified, 1 abstained, 1 errored`."""
    total = "" if counts.total is None else f" of {counts.total:,}"
    return (
        f"{counts.done:,}{total} images, {counts.certified:,} certified, {counts.abstained:,} abstained, "
        f"{counts.errored:,} errored"
    )


def _detach(client: "Client", job_id: str) -> int:
    typer.echo(
        f"\nDetached: the job goes on. Come back with `spacte jobs wait {job_id}`, or press Ctrl-C again now "
        "to cancel it.",
        err=True,
    )
    try:
        sleep(SECOND_CTRL_C_S)
    except KeyboardInterrupt:
        job = client.jobs.cancel(job_id)
        typer.echo(f"{job.id} {job.state}; what is finished stays.", err=True)
    return INTERRUPTED


def _follow(client: "Client", job_id: str) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("waiting", total=None)
        began = monotonic()
        first: int | None = None
        for counts, rate in _counts(client, job_id):
            first = counts.done if first is None else first
            elapsed = monotonic() - began
            rate = rate if rate is not None else 60 * (counts.done - first) / max(elapsed, 1.0)
            text = counts_text(counts) + (f", {rate:,.0f} a minute" if rate > 0 else "")
            progress.update(bar, description=text, completed=counts.done, total=counts.total)


def _counts(client: "Client", job_id: str) -> "Iterator[tuple[JobCounts, float | None]]":
    """Counts as they change: from the job's events, or by asking where the gateway has none or lost them."""
    from spacte_client.types import JobProgressEvent

    job: Job = client.jobs.get(job_id)
    yield job.counts, None
    try:
        for event in client.jobs.events(job_id):
            if isinstance(event, JobProgressEvent):
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
        sleep(POLL_S)
