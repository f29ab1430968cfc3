"""`spacte diagnose`: light to import; torch and SciPy are loaded when the command runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

if TYPE_CHECKING:
    from rich.table import Table

    from spacte_client.types import Diagnosis
    from spacte_core.checkpoint import CheckpointConfig

    from .measuring import LabelledImages

diagnose_app = typer.Typer(add_completion=False)


@diagnose_app.command()
def diagnose(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint folder.")],
    data: Annotated[
        str, Option(help="A labelled npz, zip or parquet file, or a set as `spacte train --data` takes it.")
    ],
    images: Annotated[int, Option(min=1, help="How many images, spread over the set.")] = 100,
    noises: Annotated[int, Option(min=10, help="Noises an image and level.")] = 100,
    sigmas: Annotated[str, Option(help="Noise levels beside the model's own.")] = "0.12,0.25,0.5,1",
    resize: Annotated[bool, Option("--resize", help="Scale and crop images to the model's input.")] = False,
    label_column: Annotated[str | None, Option(help="Column of the true class [label, fine_label ...].")] = None,
    data_root: Annotated[Path, Option(help="Where downloaded data sets are kept.")] = Path("data"),
    device: Annotated[str | None, Option(help="cpu, cuda ... [cuda where there is one]")] = None,
    as_json: Annotated[bool, Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Find out what a model lacks: its accuracy with and without noise, what certificates to expect, and what to do.

    The findings are kept beside the model, and its card on the page shows them.
    """
    from rich.console import Console

    from spacte_core.checkpoint import load_checkpoint, read_config
    from spacte_core.errors import one_sentence
    from spacte_core.hardware import choose_device
    from spacte_workers.engine import Engine, EngineError

    from .files import write_diagnosis
    from .measuring import diagnose as measure

    ladder = _ladder(sigmas)
    with one_sentence():
        place = choose_device(device)
        config, _ = read_config(model)
    found = _images(config, data, images, (resize, label_column, data_root))  # first, since a network loads for seconds
    with one_sentence():
        checkpoint = load_checkpoint(model)
    try:
        engine = Engine.from_checkpoint(checkpoint, device=place)
    except EngineError as error:
        raise typer.TyperException(str(error)) from error
    options: dict[str, Any] = {"sigma": checkpoint.config.sigma, "version": checkpoint.version}
    measured = measure(engine, found, noises=noises, ladder=ladder, **options)
    try:
        write_diagnosis(model, measured)
    except OSError as error:
        typer.echo(f"The findings cannot be kept in {model} ({error.strerror}); the page will not show them.", err=True)
    if as_json:
        typer.echo(measured.model_dump_json())
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(_table(measured, model.name))
    console.print(
        f"{measured.samples_per_second:,.0f} samples/s on {measured.device}, {measured.seconds_per_certificate:,.1f} s "
        f"a certificate with n = {measured.n:,}"
    )
    for sentence in measured.advice:
        console.print(f"- {sentence}")


def _ladder(text: str) -> list[float]:
    try:
        levels = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        levels = [-1.0]
    if not all(0 < level < 100 for level in levels):  # noise of 100 ranges of a pixel is no level of anybody's
        raise typer.BadParameter("give noise levels above 0 and below 100, such as 0.25,0.5", param_hint="--sigmas")
    return levels


def _images(
    config: "CheckpointConfig", data: str, count: int, options: tuple[bool, str | None, Path]
) -> "LabelledImages":
    """Labelled images of the data set, evenly spread; raises TyperException where there are none."""
    from spacte_core.preprocessing import Asked
    from spacte_workers.batch.inputs import InputError, InputSpec, open_source
    from spacte_workers.batch.inputs.pixels import row_pixels
    from spacte_workers.images import BadImageError

    from .measuring import LabelledImages

    resize, label_column, root = options
    file = Path(data).is_file()
    place = str(Path(data).resolve()) if file else data
    spec = InputSpec("file" if file else "dataset", place, data_root=str(root), label_column=label_column)
    shape = config.model.input_shape
    asked = Asked(resize=resize)
    pixels, labels = [], []
    try:
        source = open_source(spec, shape, class_names=config.class_names)
        for index in source.indices[:: max(1, len(source.indices) // count)][:count]:
            row = source.read(index)
            if row.label is None:
                continue
            pixels.append(row_pixels(row, spec, input_shape=shape, stated=config.pictures, asked=asked))
            labels.append(row.label)
        source.close()
    except (InputError, BadImageError) as error:
        raise typer.TyperException(str(error)) from error
    if not labels:
        raise typer.TyperException(f"{data} has no labels: name images whose classes are known.")
    return LabelledImages(pixels, labels, data if not file else Path(data).name)


def _table(measured: "Diagnosis", name: str) -> "Table":
    from rich.table import Table

    title = f"{name} on {measured.images:,} images of {measured.data}"
    shown = Table(title=title, caption=f"without noise {measured.clean_accuracy:.1%} are right; *: served at")
    for heading in ("sigma", "right under noise", "top class's votes", "certified", "at 0.25", "at 0.5", "mean radius"):
        shown.add_column(heading, justify="right")
    for level in measured.levels:
        low, middle, high = level.top_share
        shown.add_row(
            f"{level.sigma:g}{'*' if level.sigma == measured.sigma else ''}",
            f"{level.noisy_accuracy:.1%}",
            f"{middle:.0%} ({low:.0%} to {high:.0%})",
            *(f"{level.certified_accuracy[r]:.1%}" for r in ("0", "0.25", "0.5")),
            f"{level.average_radius:.3f}",
        )
    return shown
