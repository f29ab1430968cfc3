"""`spacte certify-dataset`: the batch driver without a gateway, on a Ray cluster or on this machine.

Light to import; Ray and torch are loaded when the command runs.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from spacte_workers.engine.precision import MIN_AGREEMENT, PrecisionRule

if TYPE_CHECKING:
    from spacte_client.types import JobSummary

    from .job_folder import JobFolder, JobSpec
    from .progress import State

certify_dataset_app = typer.Typer(add_completion=False)

STOPPED = 130


@certify_dataset_app.command("certify-dataset")
def certify_dataset(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint folder.")],
    data: Annotated[
        str,
        typer.Option(
            help="An npz, zip or parquet file or its URI (s3://...), or a set as `spacte train --data` takes it."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results; the same command again carries on.")],
    split: Annotated[Literal["train", "test"], typer.Option(help="Which part of a data set.")] = "test",
    stride: Annotated[int, typer.Option(min=1, help="Certify every so many images.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Certify at most so many images.")] = None,
    n0: Annotated[int, typer.Option(min=1, help="Noises drawn to choose the class.")] = 100,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="The most estimation noises.")] = 100_000,
    alpha: Annotated[float, typer.Option(help="Probability of a false certificate, each by itself.")] = 0.001,
    bound: Annotated[
        Literal["clopper_pearson", "two_class"], typer.Option(help="`two_class` also bounds the runner-up.")
    ] = "clopper_pearson",
    noise: Annotated[Literal["grid", "float"], typer.Option(help="`float`: as published.")] = "grid",
    target_radius: Annotated[
        float | None, typer.Option(help="Stop an image once this radius is shown or out of reach.")
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Stop an image when drawing on can add less than this.")
    ] = None,
    k_consensus: Annotated[
        int | None, typer.Option(min=1, help="Heads that must agree for a vote without the others.")
    ] = None,
    resize: Annotated[bool, typer.Option("--resize", help="Resize images to the model's input.")] = False,
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "int8"], typer.Option(help="Arithmetic of the votes.")
    ] = "auto",
    allow_int8: Annotated[bool, typer.Option("--allow-int8", help="Let `auto` choose int8, on CPUs.")] = False,
    min_agreement: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Smallest share of noisy images on which a precision must vote as float32 does."
        ),
    ] = MIN_AGREEMENT,
    seed: Annotated[
        str | None, typer.Option(help="128-bit seed in hex; drawn by default, and kept in job.json.")
    ] = None,
    data_root: Annotated[Path, typer.Option(help="Where downloaded data sets are kept.")] = Path("data"),
    address: Annotated[
        str | None, typer.Option(help="Ray cluster; default RAY_ADDRESS, else a Ray of this command's own.")
    ] = None,
    local: Annotated[bool, typer.Option("--local", help="Draw in this process, without Ray.")] = False,
    samplers: Annotated[int | None, typer.Option(min=1, help="Use at most so many samplers.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print summary.json at the end.")] = False,
) -> None:
    """Certify a data set: results.ndjson, results.tsv and summary.json in --out, resumable at any time.

    Exit status 0: every image is finished; 1: it failed; 130: stopped, and to be carried on.
    """
    from pydantic import ValidationError

    from spacte_client.types import CertifyParams

    from .job_folder import JobFolder

    options: dict[str, Any] = {
        "n0": n0,
        "n": n,
        "alpha": alpha,
        "bound": bound,
        "noise": noise,
        "target_radius": target_radius,
        "tolerance": tolerance,
        "k_consensus": k_consensus,
        "resize": resize,
        "seed": seed,
    }
    try:
        params = CertifyParams.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-")
        raise typer.TyperException(f"--{name}: {first['msg']}.") from None
    folder = JobFolder(out.resolve())
    if "://" in data:
        data = str(_fetched(data, folder.path))
    spec = _spec(checkpoint, _input(data, split, stride, limit, data_root), params, precision)
    rule = PrecisionRule(allow_int8, min_agreement)
    state = _run(folder, spec, seed is not None, address, samplers, rule, local=local)
    summary = _summary(folder)
    if as_json:
        typer.echo(summary.model_dump_json(indent=1))
    else:
        _report(folder, summary)
    if state != "succeeded":
        typer.echo("Stopped; the same command carries on.", err=True)
        raise typer.Exit(STOPPED)


def _input(data: str, split: str, stride: int, limit: int | None, data_root: Path) -> Any:
    from .inputs import InputSpec

    kind: Literal["file", "dataset"] = "file" if Path(data).is_file() else "dataset"
    location = str(Path(data).resolve()) if kind == "file" else _absolute(data)
    return InputSpec(kind, location, split, stride, limit, data_root=str(data_root.resolve()))


def _fetched(uri: str, out: Path) -> Path:
    """The copy of a file that lies elsewhere, kept with the results: whoever carries on reads the same bytes."""
    import hashlib
    import tempfile

    from .inputs import InputError, pieces

    place = out / f"input-{hashlib.sha256(uri.encode()).hexdigest()[:16]}"
    if not place.exists():
        try:
            out.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=out, prefix="incoming-") as file:
                for piece in pieces(uri, None):
                    file.write(piece)
                file.flush()
                place.hardlink_to(file.name)
        except InputError as error:
            if not any(out.iterdir()):
                out.rmdir()
            raise typer.TyperException(str(error)) from None
    return place


def _absolute(data: str) -> str:
    """A data set's path, if it has one, from the root: the driver may run elsewhere when it carries on."""
    name, colon, path = data.partition(":")
    return f"{name}:{Path(path).expanduser().resolve()}" if colon and path else data


def _spec(checkpoint: Path, source: Any, params: Any, precision: Any) -> "JobSpec":
    import secrets

    from spacte_core.checkpoint import CheckpointError, read_config

    from .inputs import InputError, open_source
    from .job_folder import JobSpec

    try:
        config, version = read_config(checkpoint)
        open_source(source, config.model.input_shape).close()  # before anything is made
    except (CheckpointError, InputError) as error:
        raise typer.TyperException(str(error)) from None
    checkpoint = checkpoint.resolve()
    if params.seed is None:
        params = params.model_copy(update={"seed": secrets.token_hex(16)})
    name = f"run_{secrets.token_hex(6)}"
    return JobSpec(name, checkpoint.name, version, str(checkpoint), precision, source, params)


def _run(
    folder: "JobFolder",
    spec: "JobSpec",
    seeded: bool,
    address: str | None,
    samplers: int | None,
    rule: PrecisionRule,
    *,
    local: bool,
) -> "State":
    import asyncio

    from spacte_workers.errors import RuntimeFault

    from .attempt import run_folder
    from .console import shown
    from .inputs import InputError
    from .job_folder import JobFolderError, same_job
    from .main import make_pool

    async def attempt() -> "State":
        import signal

        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def interrupted() -> None:
            typer.echo("Stopping; press Ctrl-C again to leave at once.", err=True)
            stop.set()
            loop.remove_signal_handler(signal.SIGINT)

        loop.add_signal_handler(signal.SIGINT, interrupted)
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        pool = make_pool("local" if local else "ray", address, samplers)
        with shown() as show:
            return await run_folder(folder, pool, stop=stop, on_progress=show, wait_s=1.0, rule=rule)

    try:
        if folder.spec_file.exists():
            if not same_job(folder.spec(), spec, seeded=seeded):
                sentence = f"{folder.path} holds the results of other options: choose another --out."
                raise typer.TyperException(sentence)
        else:
            folder.create(spec)
        return asyncio.run(attempt())
    except KeyboardInterrupt:
        return "interrupted"
    except (InputError, JobFolderError, RuntimeFault) as error:
        raise typer.TyperException(str(error)) from None


def _summary(folder: "JobFolder") -> "JobSummary":
    from .results import read_results
    from .summary import summarize

    return summarize(read_results(folder.results_file))


def _report(folder: "JobFolder", summary: "JobSummary") -> None:
    typer.echo(f"{summary.images:,} images, {summary.abstained:,} abstained, {summary.errored:,} errored")
    if summary.acr is not None:
        typer.echo(f"ACR {summary.acr:.3f}")
        typer.echo("radius  certified accuracy (95 % interval)")
    for row in summary.certified_accuracy:
        if round(row.radius * 100) % 25 == 0:
            typer.echo(f"{row.radius:6.2f}  {row.value:.3f} ({row.low:.3f} to {row.high:.3f})")
    if summary.statement:
        typer.echo(summary.statement)
    typer.echo(f"{folder.results_file}\n{folder.tsv_file}\n{folder.summary_file}")
