"""`spacte import`: models of other libraries, published weights, programs and ONNX files become checkpoint folders."""

from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from .checkpoint import CheckpointConfig
    from .importers import Format, Kind
    from .models import MultiHeadNet
    from .sources import SourceOptions

import_app = typer.Typer(help="Turn a model from elsewhere into a checkpoint.")

_FORMATS: "dict[str, Format]" = {".pt2": "torch-export", ".onnx": "onnx"}
"""Kinds of files that say by their names what they are."""


_MODELS = (
    "python:FILE.py:CLASS, which is run; timm:NAME, torchvision:NAME, hf:FOLDER_OR_NAME; diffusers:FOLDER_OR_NAME, "
    "before a classifier; a .onnx, .pt2, .pth or .pth.tar file, of which nothing is run; http(s)://HOST/v2/models/"
    "NAME, or a .toml file that describes such an endpoint."
)


@import_app.command(name="import")
def import_(
    model: Annotated[str, typer.Argument(help=_MODELS)],
    sigma: Annotated[float, typer.Option(min=0.0, help="Noise sd it is to be certified at, in [0, 1] pixels.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint.")],
    file_format: Annotated[
        Literal["spacte", "cohen", "macer", "torch-export", "onnx"] | None,
        typer.Option(
            "--format", help="Of a file [by its name]; cohen covers Consistency, SmoothMix and SmoothAdv files as well."
        ),
    ] = None,
    weights: Annotated[
        str, typer.Option(help="python, timm, torchvision: a file of weights, hub (the published ones) or random.")
    ] = "hub",
    classes: Annotated[
        int | None, typer.Option(min=2, help="timm, torchvision, endpoint: how many, where nothing else says.")
    ] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Height and width in pixels [as published].")] = None,
    input_shape: Annotated[
        str | None, typer.Option(metavar="C,H,W", help="python, endpoint: what it takes, where it does not say.")
    ] = None,
    before: Annotated[
        Path | None, typer.Option(metavar="CHECKPOINT", help="diffusers: the classifier that it is to denoise for.")
    ] = None,
    class_names: Annotated[Path | None, typer.Option(help="A text file with the name of a class in each line.")] = None,
    normalization: Annotated[
        Literal["standard", "center", "none"] | None,
        typer.Option(help="Of a file, the first layer [standard for spacte and cohen, else none]."),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Whose mean and sd it uses [by the number of classes].")] = None,
) -> None:
    """Turn a model from elsewhere into a checkpoint.

    What its library says of a model comes along: image size, mean and sd, class names.
    """
    from rich.console import Console

    from .checkpoint import CONFIG_FILE, CheckpointError, save_checkpoint
    from .errors import one_sentence
    from .sources import DIFFUSERS, SourceOptions, is_source, shape_of

    with one_sentence():
        if (out / CONFIG_FILE).exists():
            raise CheckpointError(f"{out} already holds a checkpoint: choose another --out.")
        names, shape = _lines(class_names), shape_of(input_shape) if input_shape else None
        if model.endswith(".toml") or model.startswith(("http://", "https://")):
            net, config = _of_endpoint(model, sigma, shape, classes, names)
        elif model.startswith(DIFFUSERS):
            net, config = _of_diffusion(model, before, sigma)
        elif is_source(model):
            net, config = _of_library(model, SourceOptions(weights, classes, size, shape), sigma, names)
        else:
            net, config = _of_file(Path(model), file_format, sigma, names, (normalization, dataset, size))
        version = save_checkpoint(out, net, config)
    Console().print(f"[bold]{out}[/] holds {_told(config)}, version {version[:12]}.", highlight=False, soft_wrap=True)


def _told(config: "CheckpointConfig") -> str:
    """What was imported, in words."""
    model, s = config.model, "s" if config.model.heads > 1 else ""
    where = f" at {model.endpoint.url}" if model.endpoint else ""
    return (
        f"{model.arch}{where} with {model.heads} head{s} and {model.num_classes} classes for images of "
        f"{' x '.join(map(str, model.input_shape))}"
    )


def _of_library(
    name: str, options: "SourceOptions", sigma: float, names: tuple[str, ...] | None
) -> "tuple[MultiHeadNet, CheckpointConfig]":
    """A library's model as a program, and what to save it with."""
    from .programs import described, program_network
    from .sources import load_source

    source = load_source(name, options)
    net, model = program_network(source.module, source.input_shape, source.normalization)
    names = names or source.class_names
    return net, described(model, sigma=sigma, method=name, class_names=names, preprocessing=source.preprocessing)


def _of_diffusion(model: str, before: Path | None, sigma: float) -> "tuple[MultiHeadNet, CheckpointConfig]":
    """A diffusion model before a classifier."""
    from .checkpoint import CheckpointError, load_checkpoint
    from .sources.diffusers_models import before as denoised

    if before is None:
        raise CheckpointError("A diffusion model denoises for a classifier: name its checkpoint with --before.")
    return denoised(model, load_checkpoint(before), sigma)


def _of_endpoint(model: str, sigma: float, shape: Any, classes: int | None, names: tuple[str, ...] | None) -> Any:
    """What is behind an address, as the installed component that asks over the network finds it."""
    from .errors import MissingPackageError

    found = entry_points(group="spacte.sources", name="endpoint")
    if not found:
        raise MissingPackageError("Endpoints are asked by spacte-workers, which is not installed here: install it.")
    load = next(iter(found)).load()
    return load(model, sigma=sigma, input_shape=shape, classes=classes, class_names=names)


def _of_file(
    file: Path,
    file_format: "Format | None",
    sigma: float,
    names: tuple[str, ...] | None,
    options: "tuple[Kind | None, str | None, int | None]",
) -> "tuple[MultiHeadNet, CheckpointConfig]":
    """What a file holds; raises CheckpointError where its format is not known."""
    from .checkpoint import CheckpointError
    from .importers import import_checkpoint

    chosen = file_format or _FORMATS.get(file.suffix)
    if chosen is None and file.suffix == ".py":
        raise CheckpointError(f"{file} is run only where a class in it is named: write python:{file}:CLASS.")
    if chosen is None:
        raise CheckpointError(
            f"What kind of file {file} is cannot be seen from its name: add --format, or name what the weights are of, "
            f"such as python:FILE.py:CLASS --weights {file}."
        )
    normalization, dataset, size = options
    return import_checkpoint(
        file, chosen, sigma=sigma, normalization=normalization, dataset=dataset, class_names=names, size=size
    )


def _lines(file: Path | None) -> tuple[str, ...] | None:
    """The names in a text file; raises CheckpointError where it cannot be read."""
    from .checkpoint import CheckpointError

    if file is None:
        return None
    try:
        return tuple(line.strip() for line in file.read_text().splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file} cannot be read as text ({error}): name a file of class names.") from error
