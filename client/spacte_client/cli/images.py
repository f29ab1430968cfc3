"""`spacte certify` and `spacte predict`: a line for each image, and on a terminal the proof as it grows."""

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from spacte_client._constants import REFRESH_PER_SECOND
from spacte_client._exceptions import APIStatusError, SpacteError

from . import _options as opt

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console
    from rich.text import Text

    from spacte_client._client import Client
    from spacte_client.types import Certificate, ProgressEvent

A = TypeVar("A", bound="BaseModel")

SHOWN_CLASSES = 10
"""Whose votes are shown. Chosen: as on the page; beyond ten few noises vote."""

ABSTAINED = 3
"""Exit status where an answer abstains. Chosen: beyond 1 for errors, and typer's 2 for wrong usage."""


def certify(
    images: opt.Images,
    model: opt.ModelName = None,
    n0: opt.SelectionNoises = None,
    n: opt.Noises = None,
    alpha: opt.Alpha = None,
    sigma: opt.Sigma = None,
    bound: opt.BoundName = None,
    noise: opt.NoiseKind = None,
    target_radius: opt.TargetRadius = None,
    tolerance: opt.Tolerance = None,
    deadline_ms: opt.DeadlineMs = None,
    k_consensus: opt.KConsensus = None,
    certify: opt.Certify = None,
    resize: opt.Resize = False,
    enlarge: opt.Enlarge = False,
    convert: opt.Convert = None,
    seed: opt.Seed = None,
    votes: opt.Votes = False,
    as_json: opt.AsJson = False,
    live: Annotated[
        bool | None, typer.Option("--live/--no-live", help="Watch the proof grow; else on a terminal only.")
    ] = None,
    base_url: opt.BaseUrl = None,
    api_key: opt.ApiKey = None,
    timeout: opt.TimeoutS = None,
) -> None:
    """Certify images: the label, and an L2 radius within which it cannot change.

    On a terminal the radius is shown while it grows. A proof that can be watched is worth a little less than
    one that is looked at once, at its end: --no-live, --json and pipes ask for the latter.

    Exit status: 0 where every image is certified, 3 where one or more abstain, 1 where one or more fail, 2 on
    a usage error. With --json one line of JSON an image, in order; a failed one has the keys image and error.
    """
    from rich.console import Console

    options = opt.provided(
        model=model, n=n, alpha=alpha, sigma=sigma, noise=noise, k_consensus=k_consensus, resize=resize, seed=seed
    )
    options |= opt.provided(enlarge=enlarge, convert=convert or None, certify=certify)
    options |= opt.provided(
        n0=n0, bound=bound, target_radius=target_radius, tolerance=tolerance, deadline_ms=deadline_ms
    )
    terminal = Console(stderr=True, highlight=False)
    if live is None:
        live = Console().is_terminal and terminal.is_terminal and not as_json and certify is None
    with opt.connect(base_url, api_key, timeout) as client:
        certifier = ImageCertifier(client, options, terminal if live else None)
        names = ClassNames(client) if votes else None
        status = print_answers(images, certifier, as_json=as_json, names=names)
    raise typer.Exit(status)


def predict(
    images: opt.Images,
    model: opt.ModelName = None,
    n: opt.NoisesToPredict = None,
    alpha: opt.Alpha = None,
    sigma: opt.Sigma = None,
    noise: opt.NoiseKind = None,
    k_consensus: opt.KConsensus = None,
    resize: opt.Resize = False,
    enlarge: opt.Enlarge = False,
    convert: opt.Convert = None,
    seed: opt.Seed = None,
    votes: opt.Votes = False,
    as_json: opt.AsJson = False,
    base_url: opt.BaseUrl = None,
    api_key: opt.ApiKey = None,
    timeout: opt.TimeoutS = None,
) -> None:
    """Classify images by the smoothed classifier, without a radius.

    Exit status: 0 where every image is answered, 3 where one or more abstain, 1 where one or more fail, 2 on
    a usage error.
    """
    options = opt.provided(
        model=model, n=n, alpha=alpha, sigma=sigma, noise=noise, k_consensus=k_consensus, resize=resize, seed=seed
    )
    options |= opt.provided(enlarge=enlarge, convert=convert or None)
    with opt.connect(base_url, api_key, timeout) as client:
        names = ClassNames(client) if votes else None
        status = print_answers(
            images, lambda image: client.predict(opt.image_of(image), **options), as_json=as_json, names=names
        )
    raise typer.Exit(status)


class ImageCertifier:
    """Certifies images: as a stream where `console` shows the proof and the gateway has the route, else plainly."""

    def __init__(self, client: "Client", options: dict[str, Any], console: "Console | None") -> None:
        self.client = client
        self.options = options
        self.console = console

    def __call__(self, image: str) -> "Certificate":
        """The certificate of one image."""
        source = opt.image_of(image)
        if self.console is not None:
            try:
                return self._certify_live(self.console, image, source)
            except APIStatusError as error:
                if error.code not in ("not_found", "method_not_allowed"):
                    raise
                self.console = None
        return self.client.certify(source, **self.options)

    def _certify_live(self, console: "Console", image: str, source: str | bytes) -> "Certificate":
        from rich.live import Live

        n_max = 0
        with self.client.certify_stream(source, **self.options) as stream:
            with Live(console=console, transient=True, refresh_per_second=REFRESH_PER_SECOND) as live:
                for event in stream:
                    if event.event == "started":
                        n_max = event.n_max
                    elif event.event == "progress":
                        live.update(progress_line(image, event, n_max))
            return stream.result()


class ClassNames:
    """Names of the classes of the models that answer, each asked for once."""

    def __init__(self, client: "Client") -> None:
        self.client = client
        self.known: dict[str, list[str]] = {}

    def lines(self, answer: Any) -> list[str]:
        """The classes with most votes, a line each: their share, votes and name."""
        if answer.model not in self.known:
            self.known[answer.model] = self.client.models.get(answer.model).class_names
        counts, names = answer.counts, self.known[answer.model]
        order = sorted(range(len(counts)), key=lambda k: (-counts[k], k))[:SHOWN_CLASSES]
        total = sum(counts) or 1
        return [f"  {counts[k] / total:7.2%} {counts[k]:>9,}  {names[k]} ({k})" for k in order if counts[k]]


def print_answers(
    images: Sequence[str],
    ask: Callable[[str], A],
    *,
    as_json: bool,
    names: ClassNames | None = None,
    line: "Callable[[str, A], Text] | None" = None,
) -> int:
    """Ask about each image and print its answer; an image that fails does not stop the others.

    Args:
        images: their files.
        ask: gives the answer.
        as_json: for programs.
        names: of classes, where votes are to be shown below each line.
        line: what is printed of an answer, in place of `answer_line`.

    Returns:
        The exit status: 1 where an image failed, else 3 where an answer abstains, else 0.
    """
    from rich.console import Console

    console = Console(highlight=False)
    statuses: set[int] = set()
    for image in images:
        try:
            answer = ask(image)
        except SpacteError as error:
            if as_json:
                code = error.code if isinstance(error, APIStatusError) else type(error).__name__
                typer.echo(json.dumps({"image": image, "error": {"code": code, "detail": error.message}}))
            typer.echo(f"Error: {image}: {error.message}", err=True)
            statuses.add(1)
            continue
        if as_json:
            typer.echo(answer.model_dump_json())
        else:
            console.print((line or answer_line)(image, answer), soft_wrap=True)
            for votes in names.lines(answer) if names else ():
                typer.echo(votes)
        said = getattr(answer, "certificate", answer)
        statuses.add(ABSTAINED if getattr(said, "abstained", False) else 0)
    return 1 if 1 in statuses else max(statuses)


def answer_line(image: str, answer: Any) -> "Text":
    """The outcome first, then what it rests on."""
    from rich.text import Text

    from spacte_client.rounding import rounded_down_text
    from spacte_client.types import Certificate

    line, stop = Text(f"{image}  "), ""
    if answer.abstained:
        line.append("abstains", "yellow")
    else:
        number = str(answer.label)
        name = f"{answer.label_name} ({number})" if answer.label_name not in (None, number) else number
        line.append(name, "bold green")
    if isinstance(answer, Certificate):
        if not answer.abstained:
            line.append("  radius ").append(rounded_down_text(answer.radius, 4), "bold")
        if answer.stop_reason != "n_max":
            stop = f", stopped at {answer.stop_reason}"
    invalid = f" ({answer.invalid:,} without a vote)" if answer.invalid else ""
    basis = f"sigma {answer.sigma:g}, alpha {answer.alpha:g}, n {answer.n:,}{invalid}{stop}"
    line.append(f"  {basis}, {answer.elapsed_ms / 1000:.1f} s", "dim")
    note = answer.preprocessing.note if answer.preprocessing else None
    return line if note is None else line.append(f"\n{note}", "yellow")


def progress_line(image: str, progress: "ProgressEvent", n_max: int) -> "Text":
    """What is proven so far, while more noises are drawn."""
    from rich.text import Text

    from spacte_client.rounding import rounded_down_text

    line = Text(f"{image}  ").append(str(progress.top_label), "bold")
    line.append("  radius ").append(rounded_down_text(progress.radius, 4), "bold").append(" proven")
    left = "" if progress.eta_ms is None else f", {progress.eta_ms / 1000:.0f} s left"
    return line.append(f"  {progress.samples:,} of {n_max:,} noises{left}", "dim")
