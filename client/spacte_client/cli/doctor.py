"""`spacte doctor`: what is wrong with a set-up, a line for each check, with its remedy."""

import json

import typer

from . import _options as opt

MARKS = {"ok": "[green]ok  [/]", "note": "[dim]note[/]", "warning": "[yellow]warn[/]", "failure": "[red]FAIL[/]"}


def doctor(as_json: opt.AsJson = False, base_url: opt.BaseUrl = None, api_key: opt.ApiKey = None) -> None:
    """Explain what is wrong with a set-up: address, key, gateway, models, versions, components.

    Exit status: 0 where certificates can be had, 1 where something has to be mended first.
    """
    from ._checks import check_components, check_gateway

    checks = [*check_gateway(base_url, api_key), *check_components()]
    if as_json:
        typer.echo(json.dumps([check._asdict() for check in checks]))
    else:
        from rich.console import Console
        from rich.markup import escape

        console = Console(highlight=False)
        for check in checks:
            console.print(f"{MARKS[check.status]} {check.name}: {escape(check.finding)}", soft_wrap=True)
    raise typer.Exit(int(any(check.status == "failure" for check in checks)))
