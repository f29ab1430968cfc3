"""`spacte import`: published weight files and exported programs become checkpoint folders."""

from pathlib import Path
from typing import Annotated, Literal

import typer

import_app = typer.Typer(help="Turn a published weight file into a checkpoint.")


@import_app.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(help="A .pth, .pth.tar or .pt2 file; nothing in it is run.")],
    file_format: Annotated[
        Literal["spacte", "cohen", "macer", "torch-export"],
        typer.Option("--format", help="cohen covers Consistency, SmoothMix and SmoothAdv files as well."),
    ],
    sigma: Annotated[float, typer.Option(min=0.0, help="Noise sd it was trained at, in [0, 1] pixels.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint.")],
    normalization: Annotated[
        Literal["standard", "center", "none"] | None,
        typer.Option(help="First layer [none for macer and torch-export, else standard]."),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Whose mean and sd it uses [by the number of classes].")] = None,
) -> None:
    """Turn a published weight file into a checkpoint; depth, heads and classes are read off the weights."""
    from rich.console import Console

    from .checkpoint import CONFIG_FILE, CheckpointError, save_checkpoint
    from .errors import one_sentence
    from .importers import import_checkpoint

    with one_sentence():
        if (out / CONFIG_FILE).exists():
            raise CheckpointError(f"{out} already holds a checkpoint: choose another --out.")
        net, config = import_checkpoint(file, file_format, sigma=sigma, normalization=normalization, dataset=dataset)
        version = save_checkpoint(out, net, config)
    model = config.model
    Console().print(
        f"[bold]{out}[/] holds {model.arch} with {model.heads} head{'s' if model.heads > 1 else ''} and "
        f"{model.num_classes} classes, version {version[:12]}.",
        highlight=False,
        soft_wrap=True,
    )
