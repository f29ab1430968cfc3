"""`spacte models` and `spacte info`: what a gateway serves, and within which limits."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from . import _options as opt

if TYPE_CHECKING:
    from spacte_client.types import Model


def models(
    name: Annotated[str | None, typer.Argument(help="One model; all where none is named.")] = None,
    load: Annotated[bool, typer.Option("--load", help="Load it, or replace it by what its folder holds now.")] = False,
    share: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="With --load: keep the old version, and give the new one this part."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(metavar="URI#sha256=VERSION", help="With --load: fetch it first, where the operator allows that."),
    ] = None,
    unload: Annotated[bool, typer.Option("--unload", help="Stop serving it.")] = False,
    traffic: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VERSION=WEIGHT",
            help="Divide its requests among versions, by their first digits; one that is not named is unloaded.",
        ),
    ] = None,
    as_json: opt.AsJson = False,
    base_url: opt.BaseUrl = None,
    api_key: opt.ApiKey = None,
) -> None:
    """List the models that a gateway serves, or change one: `--load`, `--unload`, `--traffic` need an admin's key."""
    weights = dict(map(_weight, traffic or []))
    changes = {"--load": load, "--unload": unload, "--traffic": weights}
    asked = [option for option, is_asked in changes.items() if is_asked]
    if len(asked) > 1 or (asked and name is None):
        raise typer.BadParameter("name one model, and ask for one change.", param_hint=" and ".join(asked))
    if share is not None and not load:
        raise typer.BadParameter("goes with --load only.", param_hint="--share")
    if source is not None and not load:
        raise typer.BadParameter("goes with --load only.", param_hint="--source")
    with opt.connect(base_url, api_key) as client:
        if name is None:
            found = list(client.models.list())
        elif load:
            found = [client.models.load(name, traffic=share, source=source)]
        elif unload:
            found = [client.models.unload(name)]
        elif weights:
            found = [client.models.divide_traffic(name, weights)]
        else:
            found = [client.models.get(name)]
    if as_json:
        documents = [model.model_dump(mode="json") for model in found]
        typer.echo(json.dumps(documents[0] if name is not None else documents))
    else:
        _show(found)


def _show(found: "list[Model]") -> None:
    """A table, a line a model."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("model", "state", "sigma", "classes", "input", "heads", "method", "version"):
        table.add_column(column)
    for model in found:
        table.add_row(
            model.name,
            _state(model),
            ", ".join(f"{sigma:g}" for sigma in model.sigmas),
            str(model.num_classes),
            " x ".join(str(size) for size in model.input_shape),
            str(model.heads),
            model.method,
            _versions(model),
        )
    Console().print(table)


def _weight(text: str) -> tuple[str, float]:
    version, _, weight = text.partition("=")
    try:
        return version, float(weight)
    except ValueError:
        sentence = f"is VERSION=WEIGHT, such as 3f9a1c=0.9, not {text}."
        raise typer.BadParameter(sentence, param_hint="--traffic") from None


def _state(model: "Model") -> str:
    """The state, and how far a load is or why it failed."""
    if model.progress is not None:
        return f"{model.state} ({model.progress.number}/{model.progress.steps}: {model.progress.doing})"
    return f"{model.state} ({model.reason})" if model.reason else model.state


def _versions(model: "Model") -> str:
    """The version that answers, or several with their shares; and the one that is being loaded."""
    shares = [f"{share.version[:12]} {share.weight:.0%}" for share in model.traffic]
    shown = ", ".join(shares) if len(shares) > 1 else model.version[:12]
    coming = model.target_version
    return f"{shown} -> {coming[:12]}" if coming and coming != model.version else shown


def info(as_json: opt.AsJson = False, base_url: opt.BaseUrl = None, api_key: opt.ApiKey = None) -> None:
    """Show a gateway's version, its samplers and its limits."""
    with opt.connect(base_url, api_key) as client:
        found = client.info()
    if as_json:
        typer.echo(found.model_dump_json())
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("version", found.version)
    table.add_row("samplers", f"{found.samplers} on {found.device}")
    for name, limit in sorted(found.limits.items()):
        shown = limit if isinstance(limit, bool) else f"{limit:,}"
        table.add_row(name, str(shown).lower())
    Console(highlight=False).print(table)
