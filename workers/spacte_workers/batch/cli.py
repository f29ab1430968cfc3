"""`spacte certify-dataset`: the batch driver without a gateway, on a Ray cluster or on this machine.

Light to import; Ray and torch are loaded when the command runs.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Option

from spacte_workers.engine.precision_rule import MIN_AGREEMENT, PrecisionRule

if TYPE_CHECKING:
    from spacte_client.types import JobParams

    from .inputs import InputSpec
    from .job_folder import JobFolder, JobSpec
    from .progress import State

certify_dataset_app = typer.Typer(add_completion=False)

STOPPED = 130  # as a shell says of a process that SIGINT ended

Checkpoint = Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint folder.")]
Data = Annotated[
    str, Option(help="An npz, zip or parquet file or its URI (s3://...), or a set as `spacte train --data` takes it.")
]
Out = Annotated[Path, Option(help="Folder for the results; the same command again carries on.")]
Split = Annotated[Literal["train", "test"], Option(help="Which part of a data set.")]
Stride = Annotated[int, Option(min=1, help="Certify every so many images.")]
Limit = Annotated[int | None, Option(min=1, help="Certify at most so many images.")]
N0 = Annotated[int, Option(min=1, help="Noises drawn to choose the class.")]
N = Annotated[int, Option("--n", "-n", min=1, help="The most estimation noises.")]
Alpha = Annotated[float, Option(help="Probability of a false certificate, each by itself.")]
Bound = Annotated[
    Literal["auto", "clopper_pearson", "two_class"],
    Option(help="`two_class` also bounds the runner-up; `auto` takes what promises more by the selection votes."),
]
Noise = Annotated[Literal["grid", "float"], Option(help="`float`: as published.")]
TargetRadius = Annotated[float | None, Option(help="Stop an image once this radius is shown or out of reach.")]
Tolerance = Annotated[float | None, Option(help="Stop an image when drawing on can add less than this.")]
StopIncorrect = Annotated[
    bool, Option("--stop-incorrect", help="Stop an image once the class chosen is not its true one: it counts as 0.")
]
KConsensus = Annotated[int | None, Option(min=1, help="Heads that must agree for a vote without the others.")]
Resize = Annotated[bool, Option("--resize", help="Scale and crop images to the model's input, as in its training.")]
Enlarge = Annotated[bool, Option("--enlarge", help="Let --resize enlarge; a radius then overstates the file's.")]
Convert = Annotated[
    list[str] | None,
    Option(help="channels (grey, RGB), orientation (EXIF), depth (16 bits) or transparency (onto white); repeat."),
]
Precision = Annotated[Literal["auto", "fp32", "bf16", "int8"], Option(help="Arithmetic of the votes.")]
AllowInt8 = Annotated[bool, Option("--allow-int8", help="Let `auto` choose int8, on CPUs.")]
MinAgreement = Annotated[
    float, Option(min=0, max=1, help="Smallest share of noisy images on which a precision must vote as float32 does.")
]
Portable = Annotated[
    bool, Option("--portable", help="Vote by int8 kernels whose votes are the same on every kind of x86 processor.")
]
NUpper = Annotated[
    int | None, Option(min=100, help="Attack each certificate too, with at most so many noises for each test.")
]
AlphaUpper = Annotated[float, Option(help="Probability that an attack's upper bound is false.")]
Seed = Annotated[str | None, Option(help="128-bit seed in hex; drawn by default, and kept in job.json.")]
LabelColumn = Annotated[
    str | None, Option(help="Column of the true class in parquet, npz and labels.csv [label, fine_label ...].")
]
DataRoot = Annotated[Path, Option(help="Where downloaded data sets are kept.")]
Address = Annotated[str | None, Option(help="Ray cluster; default RAY_ADDRESS, else a Ray of this command's own.")]
Local = Annotated[bool, Option("--local", help="Draw in this process, without Ray.")]
Samplers = Annotated[int | None, Option(min=1, help="Use at most so many samplers.")]
AsJson = Annotated[bool, Option("--json", help="Print summary.json at the end.")]


@certify_dataset_app.command("certify-dataset")
def certify_dataset(
    checkpoint: Checkpoint,
    data: Data,
    out: Out,
    split: Split = "test",
    stride: Stride = 1,
    limit: Limit = None,
    n0: N0 = 100,
    n: N = 100_000,
    alpha: Alpha = 0.001,
    bound: Bound = "auto",
    noise: Noise = "grid",
    target_radius: TargetRadius = None,
    tolerance: Tolerance = None,
    stop_incorrect: StopIncorrect = False,
    k_consensus: KConsensus = None,
    resize: Resize = False,
    enlarge: Enlarge = False,
    convert: Convert = None,
    precision: Precision = "auto",
    allow_int8: AllowInt8 = False,
    min_agreement: MinAgreement = MIN_AGREEMENT,
    portable: Portable = False,
    n_upper: NUpper = None,
    alpha_upper: AlphaUpper = 0.001,
    seed: Seed = None,
    label_column: LabelColumn = None,
    data_root: DataRoot = Path("data"),
    address: Address = None,
    local: Local = False,
    samplers: Samplers = None,
    as_json: AsJson = False,
) -> None:
    """Certify a data set: results.ndjson, results.tsv and summary.json in --out, resumable at any time.

    Exit status 0: every image is finished; 1: it failed, or no image could be certified; 130: stopped, and to be
    carried on.
    """
    from .job_folder import JobFolder

    options = {"n0": n0, "n": n, "alpha": alpha, "bound": bound, "noise": noise, "k_consensus": k_consensus}
    options |= {"target_radius": target_radius, "tolerance": tolerance, "resize": resize, "seed": seed}
    options |= {"enlarge": enlarge, "convert": convert or [], "n_upper": n_upper, "alpha_upper": alpha_upper}
    options["stop_incorrect"] = stop_incorrect
    params = _params(options)
    folder = JobFolder(out.resolve())
    source = _input(data, split, stride, limit, label_column, data_root, folder.path)
    spec = _spec(checkpoint, source, params, precision)
    if local:
        _require_precision(precision)
    pool = ("local" if local else "ray", address, samplers)
    state = _run(folder, spec, seed is not None, pool, PrecisionRule(allow_int8, min_agreement, portable))
    _report(folder, as_json)
    if why := _same_error(folder):
        raise typer.TyperException(f"No image could be certified: {why}")
    if state != "succeeded":
        typer.echo("Stopped; the same command carries on.", err=True)
        raise typer.Exit(STOPPED)


def _require_precision(precision: Precision) -> None:
    """End with one sentence, before the folder is written, where this machine does not compute in a precision."""
    from spacte_workers.errors import ModelLoadError
    from spacte_workers.serving.pools import require_precision_here

    try:
        require_precision_here(precision)
    except ModelLoadError as error:
        raise typer.TyperException(str(error)) from None


def _params(options: dict[str, Any]) -> "JobParams":
    from pydantic import ValidationError

    from spacte_client.types import JobParams

    try:
        return JobParams.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-")
        raise typer.TyperException(f"--{name}: {first['msg']}.") from None


def _input(
    data: str, split: str, stride: int, limit: int | None, label_column: str | None, data_root: Path, out: Path
) -> "InputSpec":
    from .inputs import InputSpec

    if "://" in data:
        data = str(_fetched(data, out))
    kind: Literal["file", "dataset"] = "file" if Path(data).is_file() else "dataset"
    location = str(Path(data).resolve()) if kind == "file" else _absolute(data)
    root = str(data_root.resolve())
    return InputSpec(kind, location, split, stride, limit, data_root=root, label_column=label_column)


def _fetched(uri: str, out: Path) -> Path:
    """The copy of a file that lies elsewhere, kept with the results: the same command later reads the same bytes."""
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
    return f"{name}:{Path(path).expanduser().resolve()}" if colon and path and name != "hf" else data


def _spec(checkpoint: Path, source: "InputSpec", params: "JobParams", precision: Any) -> "JobSpec":
    import secrets

    from spacte_core.checkpoint import CheckpointError, read_config
    from spacte_workers.errors import BadParameterError, check_consensus
    from spacte_workers.seeds import seed_of

    from .inputs import InputError, open_source
    from .job_folder import JobSpec

    try:
        config, version = read_config(checkpoint)
        check_consensus(params.k_consensus, config.model.heads)
        opened = open_source(source, config.model.input_shape, class_names=config.class_names)
    except (BadParameterError, CheckpointError, InputError) as error:
        raise typer.TyperException(str(error)) from None
    source = replace(source, sha256=opened.pin(None))
    opened.close()  # nothing has been made yet
    if opened.remark:
        typer.echo(opened.remark, err=True)
    checkpoint = checkpoint.resolve()
    seed, seed_source = seed_of(params)
    params = params.model_copy(update={"seed": seed})
    name = f"run_{secrets.token_hex(6)}"
    return JobSpec(name, checkpoint.name, version, str(checkpoint), precision, source, params, seed_source)


def _run(
    folder: "JobFolder",
    spec: "JobSpec",
    seeded: bool,
    pool: tuple[Literal["local", "ray"], str | None, int | None],
    rule: PrecisionRule,
) -> "State":
    import asyncio
    import signal

    from spacte_workers.errors import RuntimeFault

    from .inputs import InputError
    from .job_folder import JobFolderError, in_places_of, same_job, write_json
    from .main import make_pool, run_folder
    from .progress import progress_bar

    async def attempt() -> "State":
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def interrupted() -> None:
            typer.echo("Stopping; press Ctrl-C again to leave at once.", err=True)
            stop.set()
            loop.remove_signal_handler(signal.SIGINT)

        loop.add_signal_handler(signal.SIGINT, interrupted)
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        with progress_bar() as show:
            return await run_folder(folder, make_pool(*pool), stop=stop, on_progress=show, wait_s=1.0, rule=rule)

    try:
        if not folder.spec_file.exists():
            folder.create(spec)
        else:
            begun = folder.spec()
            if not same_job(begun, spec, seeded=seeded):
                raise typer.TyperException(
                    f"{folder.path} holds the results of {_other(begun, spec)}: choose another --out."
                )
            with folder.locked():
                write_json(folder.spec_file, in_places_of(spec, begun).to_json())
        return asyncio.run(attempt())
    except KeyboardInterrupt:
        return "interrupted"
    except (InputError, JobFolderError, RuntimeFault) as error:
        raise typer.TyperException(str(error)) from None


def _other(begun: "JobSpec", asked: "JobSpec") -> str:
    """In what the job that a folder holds differs from the one asked for."""
    if begun.input.sha256 != asked.input.sha256:
        return "another input"
    return "other options" if begun.model_version == asked.model_version else "another model"


def _same_error(folder: "JobFolder") -> str:
    """The error of an image where none has a certificate; empty otherwise."""
    from .results import read_results

    first = ""
    for record in read_results(folder.results_file):
        if record["outcome"] != "errored":
            return ""
        first = first or record["error"]["detail"]
    return first


def _report(folder: "JobFolder", as_json: bool) -> None:
    from .summary import summarize_folder

    summary = summarize_folder(folder)
    if as_json:
        typer.echo(summary.model_dump_json(indent=1))
        return
    typer.echo(summary.counts_text)
    if summary.acr is not None:
        typer.echo(f"ACR {summary.acr:.3f}")
        typer.echo("radius  certified accuracy (95 % interval)")
    for row in summary.certified_accuracy:
        if round(row.radius * 100) % 25 == 0:
            typer.echo(f"{row.radius:6.2f}  {row.value:.3f} ({row.low:.3f} to {row.high:.3f})")
    if summary.labels:
        typer.echo(summary.labels)
    if summary.statement:
        typer.echo(summary.statement)
    if summary.brackets:
        typer.echo(summary.brackets.sentence)
    typer.echo(f"{folder.results_file}\n{folder.tsv_file}\n{folder.summary_file}")
