"""The root of the command line, and the one place where errors become a sentence and an exit status."""

import sys
from typing import Annotated

import typer

from spacte_client._exceptions import APIStatusError, SpacteError

from ._components import ComponentGroup
from .doctor import doctor
from .evidence import evidence
from .images import certify, predict
from .jobs import jobs_app
from .models import info, models
from .runs import compare, plot
from .sets import attack, prediction_set

app = typer.Typer(
    name="spacte",
    cls=ComponentGroup,
    help="Predictions with certified radii, from a SPACTE gateway.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help takes a tenth of the time, and the documentation quotes it
    pretty_exceptions_show_locals=False,  # locals may hold an API key
)
for command in (certify, predict, attack, models, info, plot, compare, doctor, evidence):
    app.command()(command)
app.command("set")(prediction_set)
app.add_typer(jobs_app, name="jobs")


def _show_version(asked: bool) -> None:
    if asked:
        from spacte_client._version import __version__

        typer.echo(f"spacte {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; an error is one sentence on stderr and exit status 1, a usage error 2."""
    try:
        app(prog_name="spacte")
    except typer.TyperException as error:
        _fail(error.format_message(), error.exit_code)
    except SpacteError as error:
        # With the request id an operator finds a failure of the gateway in its logs.
        failed = isinstance(error, APIStatusError) and error.status_code >= 500
        _fail(str(error) if failed else error.message, 1)
    except ImportError as error:
        _fail(f"Something that this command needs is not installed ({error}); install its package again.", 1)


def _fail(sentence: str, status: int) -> None:
    typer.echo(f"Error: {sentence}", err=True)
    sys.exit(status)
