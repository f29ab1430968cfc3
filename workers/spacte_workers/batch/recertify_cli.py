"""`spacte recertify`: what of a data set's certificates still holds for another model. Light to import."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Argument, Option

if TYPE_CHECKING:
    from .recertify import Recertifier

recertify_app = typer.Typer(add_completion=False)

GATE = 1
"""Exit status where certificates got worse."""

SIGNIFICANT = 0.05
"""Of McNemar's test, one radius at a time. Chosen: the usual level; the tolerance is what guards against noise."""


@recertify_app.command("recertify")
def recertify(
    results: Annotated[Path, Argument(metavar="RESULTS", help="The --out folder of `spacte certify-dataset`.")],
    model: Annotated[Path, Option(help="Checkpoint folder of the new model; the old one again for another precision.")],
    base: Annotated[Path | None, Option(help="The old checkpoint, where it has moved.")] = None,
    n: Annotated[int | None, Option("--n", "-n", min=1, help="The most noises of an image; default as before.")] = None,
    loss: Annotated[float, Option(min=0, max=1, help="Share of a radius that carrying over may lose.")] = 0.02,
    precision: Annotated[Literal["auto", "fp32", "bf16", "int8"], Option(help="Of the new model's votes.")] = "auto",
    out: Annotated[Path | None, Option(help="File for the new records, one JSON a line.")] = None,
    gate: Annotated[bool, Option("--gate", help="Exit status 1 where certified accuracy fell.")] = False,
    radius: Annotated[list[float] | None, Option(help="Where accuracy is compared [0, sigma, 2 sigma].")] = None,
    tolerance: Annotated[float, Option(min=0, max=1, help="A fall of accuracy that --gate lets pass.")] = 0.01,
    as_json: Annotated[bool, Option("--json", help="For programs.")] = False,
) -> None:
    """Carry certificates over to a changed model: a new version, precision or machine.

    Both models vote on the same noises, and few of them bound how much they differ; where that does not serve, the
    image is certified from scratch. What is claimed is false with the old alpha at most.
    """
    from spacte_client.analysis.logs import LogError
    from spacte_client.analysis.pairs import paired_differences
    from spacte_core.errors import one_sentence
    from spacte_workers.engine.errors import EngineError

    from .inputs import InputError
    from .job_folder import JobFolder, JobFolderError
    from .recertified import run_of
    from .recertify import recertify_job

    folder = JobFolder(results if results.is_dir() else results.parent)
    old_records: list[dict[str, Any]] = []
    new_records: list[dict[str, Any]] = []
    try:
        with one_sentence():
            spec = folder.spec()
            old, recertifier = _models(
                base or Path(spec.checkpoint), model, spec.model_version, folder, precision, n, loss
            )
            target = out or folder.path / f"recertified-{model.name}-{recertifier.new.precision}.ndjson"
            with target.open("wb") as file:
                for before, after in recertify_job(spec, folder.results_file, old, recertifier):
                    file.write(json.dumps(after, separators=(",", ":")).encode() + b"\n")
                    old_records.append(before)
                    new_records.append(after)
        if not new_records:
            raise typer.TyperException(f"{folder.path} holds no certificate: finish its job first.")
        runs = [run_of("before", old_records), run_of("after", new_records)]
        sigma = old_records[0]["sigma"]
        found, _ = paired_differences(runs, radius or [0.0, sigma, 2 * sigma])
    except (JobFolderError, InputError, EngineError, LogError, OSError) as error:
        raise typer.TyperException(str(error)) from error
    _report(found, old_records, new_records, target, as_json)
    fell = [pair.radius for pair in found if pair.difference > tolerance and pair.p_value < SIGNIFICANT]
    if gate and any(at is not None for at in fell):
        at = ", ".join(f"{value:g}" for value in fell if value is not None)
        typer.echo(f"Certified accuracy fell by more than {tolerance:g} at radius {at}.", err=True)
        raise typer.Exit(GATE)


def _models(
    old: Path, new: Path, version: str, folder: Any, precision: Any, n: int | None, loss: float
) -> "tuple[Any, Recertifier]":
    """The old checkpoint, and both engines: the old one votes with the kernels that its certificates name."""
    from spacte_core.checkpoint import load_checkpoint
    from spacte_workers.certification.certificates import KERNELS, ModelIdentity
    from spacte_workers.endpoints.remote import remote_of
    from spacte_workers.engine import Engine

    from .recertify import Recertifier
    from .results import read_results

    first = next((record for record in read_results(folder.results_file) if "counts" in record), None)
    if first is None:
        raise typer.TyperException(f"{folder.path} holds no certificate: finish its job first.")
    before, after = load_checkpoint(old), load_checkpoint(new)
    if before.version != version:
        raise typer.TyperException(f"{old} is not the checkpoint that certified: name that one with --base.")
    if (before.config.model.input_shape, before.config.model.num_classes) != (
        after.config.model.input_shape,
        after.config.model.num_classes,
    ):
        raise typer.TyperException("The models take other images or have other classes: certify from scratch.")
    options: dict[str, Any] = {"sigma": first["sigma"], "min_agreement": 0.0}
    kernels = first["versions"].get(KERNELS)
    old_engine = Engine.from_checkpoint(before, precision=first["precision"], kernels=kernels, **options)
    new_engine = Engine.from_checkpoint(after, precision=precision, sigma=first["sigma"])
    names, new_kernels = tuple(after.config.class_names), new_engine.kernels
    remote = remote_of(after.config.model.asked)
    about = ModelIdentity(after.folder.name, after.version, names, new_engine.precision, new_kernels, remote)
    return before, Recertifier(old_engine, new_engine, about, n, loss)


def _report(
    found: list[Any], old: list[dict[str, Any]], new: list[dict[str, Any]], target: Path, as_json: bool
) -> None:
    before = sum(record["n0"] + record["n"] for record in old)
    after = sum(record["votes"] for record in new)
    carried = sum(record["carried"] is not None for record in new)
    acr = [sum(record["radius"] for record in records) / len(records) for records in (old, new)]
    if as_json:
        pairs = [
            {"radius": p.radius, "difference": p.difference, "standard_error": p.standard_error, "p_value": p.p_value}
            for p in found
        ]
        told = {"images": len(new), "carried": carried, "votes": after, "votes_before": before}
        typer.echo(json.dumps({**told, "mean_radius": acr, "differences": pairs, "file": str(target)}))
        return
    typer.echo(f"{len(new):,} images: {carried:,} carried over, {len(new) - carried:,} certified from scratch.")
    typer.echo(f"{after:,} votes, {before / max(after, 1):.1f} times fewer than the old ones ({before:,}).")
    typer.echo(f"Mean radius {acr[0]:.4f} before, {acr[1]:.4f} after.")
    for pair in found:
        what = "ACR" if pair.radius is None else f"accuracy at {pair.radius:g}"
        typer.echo(f"{what:20} {pair.difference:+.4f} before - after, p {pair.p_value:.3g}")
    typer.echo(f"Records: {target}")
