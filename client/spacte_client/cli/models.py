"""`spacte models` and `spacte info`: what a gateway serves, and within which limits."""

import json
from typing import Annotated

import typer

from . import _options as opt


def models(
    name: Annotated[str | None, typer.Argument(help="One model; all where none is named.")] = None,
    as_json: opt.AsJson = False,
    base_url: opt.BaseUrl = None,
    api_key: opt.ApiKey = None,
) -> None:
    """List the models that a gateway serves."""
    with opt.connect(base_url, api_key) as client:
        found = [client.models.get(name)] if name is not None else list(client.models.list())
    if as_json:
        documents = [model.model_dump(mode="json") for model in found]
        typer.echo(json.dumps(documents[0] if name is not None else documents))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("model", "state", "sigma", "classes", "input", "heads", "method", "version"):
        table.add_column(column)
    for model in found:
        table.add_row(
            model.name,
            model.state,
            ", ".join(f"{sigma:g}" for sigma in model.sigmas),
            str(model.num_classes),
            " x ".join(str(size) for size in model.input_shape),
            str(model.heads),
            model.method,
            model.version[:12],
        )
    Console().print(table)


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
