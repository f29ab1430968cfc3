"""`spacte certify`: a label and a certified radius for each image, with a live line on a terminal."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from spacte_client._exceptions import APIStatusError

from . import _options as opt
from ._answers import answer_all

if TYPE_CHECKING:
    from rich.console import Console

    from spacte_client._client import Client
    from spacte_client.types import Certificate


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
    resize: opt.Resize = False,
    seed: opt.Seed = None,
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

    from ._lines import certificate_line

    options = opt.given(
        model=model,
        n0=n0,
        n=n,
        alpha=alpha,
        sigma=sigma,
        bound=bound,
        noise=noise,
        target_radius=target_radius,
        tolerance=tolerance,
        deadline_ms=deadline_ms,
        k_consensus=k_consensus,
        resize=resize,
        seed=seed,
    )
    console = Console(highlight=False)
    terminal = Console(stderr=True, highlight=False)
    watched = console.is_terminal and terminal.is_terminal and not as_json if live is None else live
    with opt.connect(base_url, api_key, timeout) as client:
        ask = Asker(client, options, terminal if watched else None)
        status = answer_all(images, ask, certificate_line, console=console, as_json=as_json)
    raise typer.Exit(status)


class Asker:
    """Asks for certificates: as a stream where someone watches and the gateway has the route, else plainly.

    Args:
        options: keyword arguments of `Client.certify`.
        watched: the terminal to show the growing proof on.
    """

    def __init__(self, client: "Client", options: dict[str, Any], watched: "Console | None") -> None:
        self.client = client
        self.options = options
        self.watched = watched

    def __call__(self, image: str) -> "Certificate":
        """The certificate of one image."""
        source = opt.image_of(image)
        if self.watched is not None:
            try:
                return watch(self.client, self.watched, image, source, self.options)
            except APIStatusError as error:
                if error.code not in ("not_found", "method_not_allowed"):
                    raise
                self.watched = None
        return self.client.certify(source, **self.options)


def watch(
    client: "Client", console: "Console", image: str, source: str | bytes, options: dict[str, Any]
) -> "Certificate":
    """A certificate, with a line on the terminal that shows the radius proven so far."""
    from rich.live import Live

    from spacte_client.types import ProgressEvent, StartedEvent

    from ._lines import progress_line

    n_max = 0
    with client.certify_stream(source, **options) as stream:
        with Live(console=console, transient=True, refresh_per_second=10) as live:
            for event in stream:
                if isinstance(event, StartedEvent):
                    n_max = event.n_max
                elif isinstance(event, ProgressEvent):
                    live.update(progress_line(image, event, n_max))
        return stream.result()
