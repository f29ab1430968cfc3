"""Options that several commands share, and the client made from them."""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from spacte_client._client import Client

BaseUrl = Annotated[
    str | None,
    typer.Option(
        "--base-url", envvar="SPACTE_BASE_URL", help="The gateway's address; http://127.0.0.1:8000 where none is given."
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key", envvar="SPACTE_API_KEY", help="Where the gateway asks for one. The environment is the safer place."
    ),
]
TimeoutS = Annotated[float | None, typer.Option("--timeout", help="Seconds to wait for an answer.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

ModelName = Annotated[str | None, typer.Option("--model", "-m", help="The model's name; optional where one is loaded.")]
Images = Annotated[
    list[str], typer.Argument(metavar="IMAGE", help="PNG, JPEG, WebP or npy files; - reads one from stdin.")
]
NoisesToPredict = Annotated[int | None, typer.Option("--n", "-n", min=1, help="The most noises to draw.")]
Noises = Annotated[int | None, typer.Option("--n", "-n", min=1, help="The most estimation noises to draw.")]
SelectionNoises = Annotated[int | None, typer.Option("--n0", min=1, help="Noises drawn to choose the class.")]
AlphaUpper = Annotated[float | None, typer.Option(help="Probability that an upper bound is false.")]
Alpha = Annotated[float | None, typer.Option("--alpha", help="Probability of a wrong answer, in (0, 1).")]
Sigma = Annotated[float | None, typer.Option("--sigma", help="Noise level; one that the model is served at.")]
BoundName = Annotated[str | None, typer.Option("--bound", help="auto, clopper_pearson or two_class.")]
NoiseKind = Annotated[str | None, typer.Option("--noise", help="grid (exact, for 8-bit images) or float.")]
TargetRadius = Annotated[
    float | None,
    typer.Option("--target-radius", help="Stop once this L2 radius is shown, or shown to be out of reach."),
]
Tolerance = Annotated[
    float | None,
    typer.Option("--tolerance", help="Stop when the rest of the noises can add less than this to the radius."),
]
DeadlineMs = Annotated[
    int | None, typer.Option("--deadline-ms", min=1, help="Answer by then with the radius proven so far.")
]
Certify = Annotated[
    Literal["fp32"] | None,
    typer.Option(help="Certify the plain float32 network, whatever casts the votes; with a fixed number of noises."),
]
KConsensus = Annotated[
    int | None, typer.Option("--k-consensus", min=1, help="If the first k heads agree, their class is the vote.")
]
Votes = Annotated[bool, typer.Option("--votes", help="Also show the ten classes with most votes.")]
Resize = Annotated[
    bool,
    typer.Option("--resize", help="Scale and crop to the model's input, as in its training; the radius is about that."),
]
Enlarge = Annotated[
    bool, typer.Option("--enlarge", help="Let --resize enlarge; the radius then overstates the file's.")
]
Convert = Annotated[
    list[str] | None,
    typer.Option(
        "--convert",
        help="channels (grey, RGB), orientation (EXIF), depth (16 bits) or transparency (onto white); repeat.",
    ),
]
Seed = Annotated[str | None, typer.Option("--seed", help="32 hex digits; only where the operator allows it.")]


def connect(base_url: str | None, api_key: str | None, timeout: float | None = None) -> "Client":
    """The client for a command."""
    from spacte_client._client import Client

    return Client(base_url, api_key, timeout=timeout)


def provided(**options: Any) -> dict[str, Any]:
    """The options that the user gave; the gateway decides the rest."""
    return {name: value for name, value in options.items() if value is not None and value is not False}


def image_of(name: str) -> str | bytes:
    """What the SDK is to read: the file of that name, or the bytes on stdin."""
    if name != "-":
        return name
    if sys.stdin is None:
        raise typer.TyperException("Standard input is closed; send an image there, or name a file.")
    return typer.get_binary_stream("stdin").read()


@contextmanager
def output(path: Path | None) -> "Generator[Callable[[str], object]]":
    """A function that writes to stdout, or to a file that takes the place of `path` once it is whole.

    Until then, and where something fails, `path` keeps its content. A pipe or a device is written to directly.
    """
    if path is None:
        yield lambda text: typer.echo(text, nl=False)
        return
    target = path.resolve()
    whole = target.is_file() or not target.exists()
    part = target.with_name(f"{target.name}.part") if whole else target
    try:
        file = part.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise typer.TyperException(f"Cannot write {path}: {error.strerror}; check the folder.") from error
    try:
        with file:
            yield file.write
        if whole:
            part.replace(target)
    finally:
        if whole:
            part.unlink(missing_ok=True)
