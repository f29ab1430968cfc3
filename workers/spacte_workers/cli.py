"""`spacte verify` and `spacte bench`: light to import; torch and SciPy are loaded when a command runs."""

import json
import sys
from collections import Counter
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.main
from typer import Argument, Option
from typer.core import TyperGroup

_BENCHMARKS = "spacte.benchmarks"
"""The entry-point group of benchmarks, each a Typer app of one command; imported when it is looked at."""


class _BenchGroup(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *sorted(point.name for point in entry_points(group=_BENCHMARKS))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        for point in entry_points(group=_BENCHMARKS, name=cmd_name):
            command = typer.main.get_command(point.load())
            command.name = cmd_name
            return command
        return super().get_command(ctx, cmd_name)


verify_app = typer.Typer(add_completion=False)
bench_app = typer.Typer(cls=_BenchGroup, add_completion=False, no_args_is_help=True)


@bench_app.callback()
def bench() -> None:
    """Measure: noises to decide, noises a second, training steps a second."""


@bench_app.command("samples")
def samples(
    alpha: Annotated[float, Option(min=1e-12, max=0.5, help="Probability of a false certificate.")] = 0.001,
    n0: Annotated[int, Option(min=1, help="Selection noises.")] = 100,
    n: Annotated[int, Option(min=1, help="The most estimation noises.")] = 100_000,
    runs: Annotated[int, Option(min=2, help="Simulated certifications a case.")] = 2_000,
    seed: Annotated[int, Option(min=0, help="Seed of the simulation.")] = 0,
    checkpoint: Annotated[
        Path | None, Option(help="A network trained on the digits, to ask about real images as well.")
    ] = None,
    images: Annotated[int, Option(min=1, max=397, help="Held-out digits, with --checkpoint.")] = 50,
    as_json: Annotated[bool, Option("--json", help="For programs.")] = False,
) -> None:
    """Mean noises to decide whether a radius holds: fixed n, the stages of Horvath et al. 2022, ours."""
    from spacte_workers.bench.samples import bench_samples

    rows = bench_samples(alpha=alpha, n0=n0, n_max=n, runs=runs, seed=seed)
    real = [] if checkpoint is None else _real(checkpoint, images=images, alpha=alpha, n0=n0, n_max=n)
    if as_json:
        typer.echo(json.dumps({"alpha": alpha, "n0": n0, "n": n, "runs": runs, "cases": rows, "real": real}))
        return
    typer.echo("target  true R     fixed n      stages        ours   (noises; radii in units of sigma)")
    for row in rows:
        true = "all agree" if row["true_radius"] is None else f"{row['true_radius']:g}"
        typer.echo(
            f"{row['target']:6g}  {true:9}{row['fixed']:9,.0f}{row['stages']:12,.0f}{row['ours']:12,.0f}"
            f"  +- {row['standard_error']:,.0f}"
        )
    for row in real:
        typer.echo(
            f"{row['target']:6g}  {row['images']} images{row['fixed']:9,}{row['stages']:12,.0f}{row['ours']:12,.0f}"
            f"  shown for {row['shown']:.0%}"
        )


def _real(checkpoint: Path, **options: Any) -> list[dict[str, Any]]:
    """The same for real images."""
    from spacte_core.checkpoint import CheckpointError
    from spacte_workers.bench.real_samples import bench_real

    try:
        return bench_real(checkpoint, **options)
    except (CheckpointError, ValueError) as error:
        raise typer.TyperException(str(error)) from error


@verify_app.command("verify")
def verify(
    certificate: Annotated[
        Path,
        Argument(
            metavar="CERT.json",
            help="A certificate, the results of a job with one a line, or a bundle's folder; - reads standard input.",
        ),
    ],
    replay: Annotated[
        Path | None, Option(metavar="CHECKPOINT", help="Draw all votes again with this checkpoint folder.")
    ] = None,
    image: Annotated[Path | None, Option(metavar="FILE", help="The image that was certified; with --replay.")] = None,
    base: Annotated[Path | None, Option(metavar="CHECKPOINT", help="Whose votes were carried; with --replay.")] = None,
    resize: Annotated[
        bool, Option("--resize", help="Resize the image; certificates of today say so themselves.")
    ] = False,
    device: Annotated[
        str | None,
        Option(help="Where to draw, best the kind of device that certified: cpu, cuda ... [cuda where there is one]"),
    ] = None,
    key: Annotated[
        Path | None, Option(metavar="PUBLIC", help="The service's public keys as PEM: check the signatures, offline.")
    ] = None,
    as_json: Annotated[bool, Option("--json", help="Findings as JSON.")] = False,
) -> None:
    """Recompute label, bound and radius of a certificate, offline; exit status 1 where they do not fit."""
    from spacte_workers.certification.verify import check, check_line, notes
    from spacte_workers.signed import certificates_in, unsigned

    if (replay is None) != (image is None):
        raise typer.TyperException("A replay needs both --replay CHECKPOINT and --image FILE.")
    text = _text(certificates_in(certificate))
    about_file = [] if key is None else unsigned(certificate, text, key)
    about_file = about_file or _changed_log(certificate, text)
    if about_file:
        typer.echo(json.dumps({"fits": False, "findings": about_file}) if as_json else "\n".join(about_file))
        raise typer.Exit(1)
    certificates = _read(certificate, text)
    if replay is not None and len(certificates) != 1:
        raise typer.TyperException("A replay is of one certificate: put it in a file of its own.")
    wrong = 0
    noted: Counter[str] = Counter()
    for where, record, one in certificates:
        findings = check(one) or (check_line(record, one) if "outcome" in record else [])
        if replay is not None and image is not None and not findings:
            findings = _replay(one, (replay, base), image, resize, device)
        wrong += bool(findings)
        about = notes(one)
        noted.update(about)
        if as_json:
            typer.echo(json.dumps({"id": one.id, "fits": not findings, "findings": findings, "notes": about}))
        else:
            for finding in findings:
                typer.echo(f"{where}{finding}")
    if not as_json:
        typer.echo(_verdict(len(certificates), wrong, replay is not None))
        for note, times in noted.items():
            typer.echo(note if len(certificates) == 1 else f"{times:,} of {len(certificates):,}: {note}")
    if wrong:
        raise typer.Exit(1)


def _changed_log(path: Path, text: str) -> list[str]:
    """What is wrong with the chain of a job's results; their end stands beside them in the job's folder."""
    from spacte_workers.batch.chains import ChangedLogError, check_log
    from spacte_workers.batch.job_folder import JobFolder

    first = text.lstrip().partition("\n")[0]
    if '"previous_sha256":"' not in first.replace(" ", "") or not path.is_file():
        return []
    folder = JobFolder(path.parent)
    progress = folder.progress() if path.resolve() == folder.results_file.resolve() else {}
    count = sum(progress["counts"][name] for name in ("certified", "abstained", "errored")) if progress else None
    try:
        check_log(path, count, progress.get("results_sha256"))
    except ChangedLogError as error:
        sentence = (
            f"The results are not what their driver wrote: {error}. Resume the job to draw again what is missing."
        )
        return [sentence]
    return []


def _without_certificate(record: Any) -> bool:
    """Whether it is the line of an image of a job that has no certificate."""
    return isinstance(record, dict) and "outcome" in record and "counts" not in record


def _verdict(total: int, wrong: int, replayed: bool) -> str:
    how = "recomputed from its counts, and the counts from its seed" if replayed else "recomputed from its counts"
    if total == 1:
        return "The certificate does not fit." if wrong else f"The certificate fits: label, bound and radius {how}."
    return f"{total - wrong:,} of {total:,} certificates fit, each {how}."


def _text(path: Path) -> str:
    """The text of a file, or of standard input."""
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.TyperException(f"{path} cannot be read ({error}); name a certificate's JSON file.") from error


def _read(path: Path, text: str) -> list[tuple[str, Any, Any]]:
    """What to put before a finding, the JSON and the certificate, for each certificate of a text."""
    from pydantic import ValidationError

    from spacte_client.types import Certificate

    try:
        records: list[tuple[str, Any]] = [("", json.loads(text))]
    except ValueError:
        records = []
        for i, line in enumerate(text.splitlines(), 1):
            where = f"line {i}: "
            try:
                records += [(where, json.loads(line))] if line.strip() else []
            except ValueError as error:
                sentence = f"{where}this is not JSON ({error}); pass the file as it was sent."
                raise typer.TyperException(sentence) from error
    found: list[tuple[str, Any, Any]] = []
    for where, record in records:
        if _without_certificate(record):
            continue
        try:
            found.append((where, record, Certificate.model_validate(record)))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "the whole"
            raise typer.TyperException(
                f"{where}{field} does not fit ({first['msg']}); pass a certificate as the service sent it."
            ) from error
    if not found:
        raise typer.TyperException(f"{path} holds no certificate; pass the JSON as the service sent it.")
    return found


def _replay(
    certificate: Any, checkpoints: tuple[Path, Path | None], image: Path, resize: bool, device: str | None
) -> list[str]:
    """Draw the votes again; `checkpoints` are the model's, and that of a carried certificate's votes."""
    from spacte_core.checkpoint import load_checkpoint
    from spacte_core.errors import UserError
    from spacte_core.hardware import choose_device
    from spacte_workers.certification.carrying import voted_by
    from spacte_workers.certification.certificates import KERNELS, preprocessing, software_versions
    from spacte_workers.certification.verify import replay

    from .engine import EngineError
    from .images import BadImageError, asked_by, decode_image, image_sha256

    try:
        place = choose_device(device)
        loaded, *others = (load_checkpoint(path) for path in checkpoints if path is not None)
        net = loaded.config.model
        asked = asked_by(certificate.preprocessing, resize)
        pixels = decode_image(
            image.read_bytes(), input_shape=net.input_shape, stated=loaded.config.pictures, asked=asked
        )
    except OSError as error:
        raise typer.TyperException(f"{image} cannot be read: {error}.") from error
    except (UserError, BadImageError) as error:
        raise typer.TyperException(str(error)) from error
    findings: list[str] = []
    if loaded.version != certificate.model_version:
        findings.append(f"model_version: it is {certificate.model_version}, but the checkpoint's is {loaded.version}.")
    if image_sha256(pixels) != certificate.image_sha256:
        findings.append("image_sha256: the image is another one than was certified.")
    elif preprocessing(pixels.steps) != certificate.preprocessing and not resize:
        findings.append("preprocessing: it is not what brings this image to the model's input.")
    if len(certificate.counts) != net.num_classes:
        findings.append(f"counts: the model has {net.num_classes} classes, not {len(certificate.counts)}.")
    if certificate.k_consensus is not None and certificate.k_consensus > net.heads:
        findings.append(f"k_consensus: {certificate.k_consensus} heads are to agree, but the model has {net.heads}.")
    if findings:
        return findings
    try:
        votes = voted_by(certificate)
        voter = others[0] if others else loaded
        if voter.version != votes.model_version:
            return [f"carried: name the checkpoint of version {votes.model_version} with --base, which cast the votes."]
        engine = _engine_of(votes, voter, place)
        about = None if certificate.carried is None else _engine_of(certificate, loaded, place)
        findings = replay(certificate, engine, pixels, about=about, class_names=loaded.config.class_names)
    except (EngineError, BadImageError) as error:
        raise typer.TyperException(f"The votes cannot be drawn again here: {error}") from error
    if findings:
        made = {name: votes.versions.get(name, "unknown") for name in ("torch", KERNELS)}
        findings.append(
            f"replay: drawn on {place.type} with torch {software_versions()['torch']} and kernels {engine.kernels}, "
            f"certified with torch {made['torch']} and kernels {made[KERNELS]}; another kind of device (--device), "
            "another version or other kernels may flip a few votes near ties."
        )
    return findings


def _engine_of(certificate: Any, checkpoint: Any, device: Any) -> Any:
    """An engine like the one that drew the certificate's votes; with other kernels where those do not run here.

    It computes bf16 value by value where the processor has no instructions for it: slow, but so the votes are seen.
    """
    from spacte_workers.certification.certificates import KERNELS
    from spacte_workers.engine.errors import NoSuchKernelsError
    from spacte_workers.engine.kernel_names import usual_kernels

    from .engine import Engine
    from .engine.selection import not_computed

    # No agreement is required: which precision may vote was decided when the certificate was made.
    options: dict[str, Any] = {
        "precision": certificate.precision,
        "device": device,
        "sigma": certificate.sigma,
        "min_agreement": 0.0,
    }
    named = certificate.versions.get(KERNELS) or usual_kernels(certificate.precision, device)
    try:
        return Engine.from_checkpoint(checkpoint, kernels=named, **options)
    except NoSuchKernelsError:
        slow = certificate.precision == "bf16" and not_computed("bf16", device) is not None
        return Engine.from_checkpoint(checkpoint, kernels="plain" if slow else None, **options)
