"""`spacte jobs`: submit, watch and read batch jobs."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from spacte_client._constants import LARGEST_PAGE

from . import _options as opt
from ._options import ApiKey, AsJson, BaseUrl
from ._watch import counts_text, watch_job

if TYPE_CHECKING:
    from spacte_client._client import Client
    from spacte_client.types import Job, Recertified

DETACHED = 130
"""Exit status after Ctrl-C: what a shell gives for SIGINT, 128 + 2."""

WORST = 10
"""Images that got worse, as listed. Chosen: a screen; `--json` has more."""

jobs_app = typer.Typer(
    help="Certify whole data sets, as jobs of the gateway.", no_args_is_help=True, rich_markup_mode=None
)

JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id, job_...")]


@jobs_app.command()
def submit(
    source: Annotated[
        str,
        typer.Argument(
            help="An npz, zip or parquet file to upload, the id of one uploaded before, a URI, or a data set."
        ),
    ],
    split: Annotated[str | None, typer.Option(help="Of a data set; test where none is given.")] = None,
    stride: Annotated[int | None, typer.Option(min=1, help="Of a data set: every so many images.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Of a data set: at most so many images.")] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Column of the true class [label, fine_label and the like].")
    ] = None,
    model: opt.ModelName = None,
    n0: opt.SelectionNoises = None,
    n: opt.Noises = None,
    alpha: opt.Alpha = None,
    sigma: opt.Sigma = None,
    bound: opt.BoundName = None,
    noise: opt.NoiseKind = None,
    target_radius: opt.TargetRadius = None,
    tolerance: opt.Tolerance = None,
    stop_incorrect: Annotated[
        bool,
        typer.Option(
            "--stop-incorrect", help="Stop an image once the class chosen is not its true one: it counts as 0."
        ),
    ] = False,
    k_consensus: opt.KConsensus = None,
    certify: opt.Certify = None,
    n_upper: Annotated[
        int | None, typer.Option(min=100, help="Attack each certificate too, with at most so many noises a test.")
    ] = None,
    alpha_upper: opt.AlphaUpper = None,
    resize: opt.Resize = False,
    enlarge: opt.Enlarge = False,
    convert: opt.Convert = None,
    wait_for_it: Annotated[bool, typer.Option("--wait", help="Watch it to its end.")] = False,
    as_json: AsJson = False,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Submit a job: a certificate for every image of SOURCE."""
    selection = opt.provided(split=split, stride=stride, limit=limit)
    columns = opt.provided(label_column=label_column)
    options = opt.provided(
        model=model, n0=n0, n=n, alpha=alpha, sigma=sigma, noise=noise, k_consensus=k_consensus, resize=resize
    )
    options |= opt.provided(enlarge=enlarge, convert=convert or None, certify=certify)
    options |= opt.provided(n_upper=n_upper, alpha_upper=alpha_upper)
    options |= opt.provided(bound=bound, target_radius=target_radius, tolerance=tolerance)
    options |= opt.provided(stop_incorrect=stop_incorrect)
    with opt.connect(base_url, api_key) as client:
        job = client.jobs.create(job_input(client, source, selection, columns), **options)
        show_or_watch(client, job, wait_for_it=wait_for_it, as_json=as_json)


def show_or_watch(client: "Client", job: "Job", *, wait_for_it: bool, as_json: bool) -> None:
    """Print a job that was just submitted, or watch it to its end and exit as it ended."""
    if not wait_for_it:
        show_job(job, as_json=as_json)
        return
    if not as_json:
        typer.echo(f"{job.id} {job.state}")
    watch_and_exit(client, job.id, as_json=as_json)


@jobs_app.command()
def recertify(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="A job that has succeeded, job_...")],
    model: opt.ModelName = None,
    wait_for_it: Annotated[bool, typer.Option("--wait", help="Watch it to its end.")] = False,
    as_json: AsJson = False,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Certify the images of a job again, for a changed model: the one of that name now, or --model.

    Certificates are carried over where that takes fewer noises, and made anew elsewhere; `spacte jobs summary` says
    what got worse.
    """
    with opt.connect(base_url, api_key) as client:
        job = client.jobs.create(base_job=job_id, **opt.provided(model=model))
        show_or_watch(client, job, wait_for_it=wait_for_it, as_json=as_json)


@jobs_app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    state: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    as_json: AsJson = False,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
) -> None:
    """List jobs, newest first."""
    with opt.connect(base_url, api_key) as client:
        wanted: Any = state
        jobs = list(islice(client.jobs.list(limit=min(limit, LARGEST_PAGE), state=wanted), limit))
    if as_json:
        typer.echo(json.dumps([job.model_dump(mode="json") for job in jobs]))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("job", "state", "model", "done", "certified", "abstained", "errored", "created"):
        table.add_column(column, no_wrap=True)
    for job in jobs:
        counts = job.counts
        done = f"{counts.done:,}" if counts.total is None else f"{counts.done:,} of {counts.total:,}"
        cells = (f"{counts.certified:,}", f"{counts.abstained:,}", f"{counts.errored:,}")
        table.add_row(job.id, job.state, job.model, done, *cells, f"{job.created_at:%Y-%m-%d %H:%M}")
    console = Console(highlight=False)
    # Whole lines in a pipe and on a narrow terminal, too: the id is what every other command asks for.
    console.width = max(console.width, console.measure(table, options=console.options.update(width=1000)).maximum)
    console.print(table)


@jobs_app.command()
def show(job_id: JobId, as_json: AsJson = False, base_url: BaseUrl = None, api_key: ApiKey = None) -> None:
    """Show a job's state and counts."""
    with opt.connect(base_url, api_key) as client:
        show_job(client.jobs.get(job_id), as_json=as_json)


@jobs_app.command()
def wait(job_id: JobId, as_json: AsJson = False, base_url: BaseUrl = None, api_key: ApiKey = None) -> None:
    """Watch a job to its end.

    The first Ctrl-C leaves the job running and says how to come back; a second one soon after cancels it.
    Exit status: 0 where it succeeded, 1 where it failed or was cancelled, 130 after Ctrl-C.
    """
    with opt.connect(base_url, api_key) as client:
        watch_and_exit(client, job_id, as_json=as_json)


@jobs_app.command()
def cancel(job_id: JobId, as_json: AsJson = False, base_url: BaseUrl = None, api_key: ApiKey = None) -> None:
    """Stop a job; what is finished stays."""
    with opt.connect(base_url, api_key) as client:
        show_job(client.jobs.cancel(job_id), as_json=as_json)


@jobs_app.command()
def resume(job_id: JobId, as_json: AsJson = False, base_url: BaseUrl = None, api_key: ApiKey = None) -> None:
    """Go on with a job that failed, was cancelled or was interrupted."""
    with opt.connect(base_url, api_key) as client:
        show_job(client.jobs.resume(job_id), as_json=as_json)


@jobs_app.command()
def delete(job_id: JobId, base_url: BaseUrl = None, api_key: ApiKey = None) -> None:
    """Delete a job that has ended, with its results."""
    with opt.connect(base_url, api_key) as client:
        client.jobs.delete(job_id)


@jobs_app.command()
def results(
    job_id: JobId,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write to this file, once all is there; .tsv gives the field's columns."),
    ] = None,
    tsv: Annotated[bool, typer.Option("--tsv", help="Columns idx label predict radius correct time.")] = False,
    after: Annotated[int | None, typer.Option(min=0, help="Only what comes after this row.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the job ends.")] = False,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Print or save a job's results, one line of JSON an image, or as a TSV log."""
    as_tsv = tsv or (out is not None and out.suffix == ".tsv")
    if as_tsv and (follow or after is not None):
        raise typer.BadParameter("goes with NDJSON only; leave out --tsv.", param_hint="--follow and --after")
    with opt.connect(base_url, api_key) as client, opt.output(out) as write:
        if as_tsv:
            write(client.jobs.results_tsv(job_id))
            return
        for record in client.jobs.results(job_id, after=after, follow=follow):
            write(record.model_dump_json() + "\n")


@jobs_app.command()
def events(
    job_id: JobId,
    after: Annotated[str | None, typer.Option(help="Only what comes after the event of this id.")] = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Print a job's changes of state and progress as they come, one line of JSON each."""
    with opt.connect(base_url, api_key) as client:
        for event in client.jobs.events(job_id, after=after):
            typer.echo(event.model_dump_json())


@jobs_app.command()
def summary(job_id: JobId, as_json: AsJson = False, base_url: BaseUrl = None, api_key: ApiKey = None) -> None:
    """Show certified accuracy over a job's finished images."""
    from spacte_client.rounding import rounded_down_text

    with opt.connect(base_url, api_key) as client:
        found = client.jobs.summary(job_id)
    if as_json:
        typer.echo(found.model_dump_json())
        return
    acr = "" if found.acr is None else f", ACR {rounded_down_text(found.acr, 3)}"
    typer.echo(f"{found.counts_text}{acr}")
    for row in found.certified_accuracy:
        typer.echo(f"at {row.radius:g}: {row.value:.1%} [{row.low:.1%}, {row.high:.1%}]")
    if found.statement:
        typer.echo(found.statement)
    if found.brackets is not None:
        typer.echo(found.brackets.sentence)
        for narrow in found.brackets.narrower:
            typer.echo(f"less than {narrow.width:g} between the bounds: {narrow.share:.1%}")
    if found.recertified is not None:
        for line in recertified_lines(found.recertified):
            typer.echo(line)


def recertified_lines(found: "Recertified") -> Iterator[str]:
    """What became of the base job's certificates, for people."""
    anew = found.images - found.carried
    yield f"Against {found.base_job}: {found.carried:,} certificates carried over, {anew:,} made anew."
    yield f"{found.votes:,} votes, where the base job took {found.votes_from_scratch:,}."
    for pair in found.compared:
        yield f"at {pair.radius:g}: {pair.before:.1%} before, {pair.after:.1%} after, p {pair.p_value:.2g}"
    yield f"{len(found.worse):,} images got worse{':' if found.worse else '.'}"
    for image in found.worse[:WORST]:
        yield (
            f"  image {image.index}: class {image.label_before} up to {image.radius_before:g} before, class "
            f"{image.label} up to {image.radius:g} after"
        )


def job_input(client: "Client", source: str, selection: dict[str, Any], columns: dict[str, Any]) -> Any:
    """What SOURCE names: a file here, a file there, a URI or a data set."""
    upload = Path(source)
    if selection and (upload.is_file() or source.startswith("file_") or "://" in source):
        raise typer.BadParameter("go with a data set's name only.", param_hint="--split, --stride and --limit")
    if upload.is_file():
        return {"type": "file", "file_id": client.files.upload(upload).id, **columns}
    if source.startswith("file_"):
        return {"type": "file", "file_id": source, **columns}
    if "://" in source:
        return {"type": "uri", "uri": source, **columns}
    if upload.suffix in (".npz", ".zip", ".parquet"):
        raise typer.TyperException(f"Cannot read {source}: there is no such file; check the path.")
    return {"type": "dataset", "name": source, **selection, **columns}


def show_job(job: "Job", *, as_json: bool) -> None:
    """Print a job, for people or for programs."""
    if as_json:
        typer.echo(job.model_dump_json())
        return
    typer.echo(f"{job.id} {job.state}: {counts_text(job.counts)}")
    if job.error is not None:
        typer.echo(job.error.detail)


def watch_and_exit(client: "Client", job_id: str, *, as_json: bool) -> NoReturn:
    """Watch a job to its end, print how it ended, and exit: 0 where it succeeded, 1 where not, 130 after Ctrl-C."""
    job = watch_job(client, job_id, show_progress=not as_json)
    if job is None:
        raise typer.Exit(DETACHED)
    show_job(job, as_json=as_json)
    raise typer.Exit(int(job.state != "succeeded"))
