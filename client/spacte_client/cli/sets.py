"""`spacte set` and `spacte attack`: a set of classes for an image, and its radius from both sides."""

from typing import TYPE_CHECKING, Annotated

import typer

from . import _options as opt
from .images import print_answers

if TYPE_CHECKING:
    from rich.text import Text

    from spacte_client.types import Bracket, PredictionSet


def prediction_set(
    images: opt.Images,
    radius: Annotated[float, typer.Option("--radius", min=0, help="L2 radius that perturbations may have.")],
    model: opt.ModelName = None,
    alpha: Annotated[float | None, typer.Option("--alpha", help="Probability that the set misses the truth.")] = None,
    method: Annotated[str | None, typer.Option("--method", help="rcp1 (one noise) or bincp (smaller sets).")] = None,
    resize: opt.Resize = False,
    seed: opt.Seed = None,
    as_json: opt.AsJson = False,
    base_url: opt.BaseUrl = None,
    api_key: opt.ApiKey = None,
    timeout: opt.TimeoutS = None,
) -> None:
    """Name the classes that hold the true one, however the image was moved by --radius.

    The model needs a calibration: `spacte calibrate`. The level is marginal, over images and noise.

    Exit status: 0 where every image is answered, 1 where one or more fail, 2 on a usage error.
    """
    options = opt.provided(model=model, alpha=alpha, method=method, resize=resize, seed=seed)
    with opt.connect(base_url, api_key, timeout) as client:
        status = print_answers(
            images,
            lambda image: client.predict_set(opt.image_of(image), radius=radius, **options),
            as_json=as_json,
            line=set_line,
        )
    raise typer.Exit(status)


def attack(
    images: opt.Images,
    model: opt.ModelName = None,
    n0: opt.SelectionNoises = None,
    n: opt.Noises = None,
    alpha: opt.Alpha = None,
    n_upper: Annotated[int | None, typer.Option(min=100, help="The most noises of a test of the attack.")] = None,
    alpha_upper: opt.AlphaUpper = None,
    resize: opt.Resize = False,
    seed: opt.Seed = None,
    as_json: opt.AsJson = False,
    base_url: opt.BaseUrl = None,
    api_key: opt.ApiKey = None,
    timeout: opt.TimeoutS = None,
) -> None:
    """Bracket the radius of images: certified from below, attacked from above.

    Where the attack finds nothing there is no upper bound, and nothing is said of one.

    Exit status: as for `spacte certify`.
    """
    options = opt.provided(
        model=model, n0=n0, n=n, alpha=alpha, n_upper=n_upper, alpha_upper=alpha_upper, resize=resize, seed=seed
    )
    with opt.connect(base_url, api_key, timeout) as client:
        status = print_answers(
            images, lambda image: client.bracket(opt.image_of(image), **options), as_json=as_json, line=bracket_line
        )
    raise typer.Exit(status)


def set_line(image: str, answer: "PredictionSet") -> "Text":
    """The classes, then what they rest on."""
    from rich.text import Text

    names = ", ".join(answer.label_names) or "no class"
    basis = f"radius {answer.radius:g}, alpha {answer.alpha:g}, {answer.method}, {answer.calibration.images:,} images"
    return Text(f"{image}  ").append(names, "bold green").append(f"  {basis}, {answer.elapsed_ms / 1000:.2f} s", "dim")


def bracket_line(image: str, answer: "Bracket") -> "Text":
    """The interval, then what it rests on."""
    from rich.text import Text

    from spacte_client.rounding import round_up, rounded_down_text

    certificate, line = answer.certificate, Text(f"{image}  ")
    if certificate.abstained:
        line.append("abstains", "yellow")
    else:
        line.append(str(certificate.label_name), "bold green").append("  radius ")
        line.append(f"at least {rounded_down_text(answer.lower, 4)}", "bold")
        if answer.upper is not None and answer.adversarial is not None:
            line.append(f", at most {round_up(answer.upper, 4):.4f}", "bold")
            line.append(f" ({answer.adversarial.label_name} there)")
        else:
            line.append(", no upper bound found")
    return line.append(
        f"  alpha {answer.alpha_lower:g} and {answer.alpha_upper:g}, {answer.elapsed_ms / 1000:.1f} s", "dim"
    )
