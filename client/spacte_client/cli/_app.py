"""The root of the command line, and the one place where errors become a sentence and an exit status."""

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from spacte_client._exceptions import APIStatusError, SpacteError

from ._components import ComponentGroup
from ._variables import warnings
from .doctor import doctor
from .evidence import evidence
from .images import certify, predict
from .jobs import jobs_app
from .models import info, models
from .runs import compare, plot
from .sets import attack, prediction_set

NOT_WRITTEN = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}
"""Of standard output: its disk is full, or it is gone."""

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
    for variable in ("COLUMNS", "LINES"):
        if os.environ.get(variable, "").strip() == "0":  # of a terminal that has not been told its size
            del os.environ[variable]
    try:
        for warning in warnings():
            typer.echo(f"Warning: {warning}", err=True)
        try:
            app(prog_name="spacte")
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # a full disk is told by this line and not at the interpreter's end
    except BrokenPipeError:  # whoever reads has enough
        _discard_output()
        sys.exit(1)
    except OSError as error:
        _fail(_about(error), 1)
    except typer.TyperException as error:
        _fail(error.format_message(), error.exit_code)
    except SpacteError as error:
        # With the request id an operator finds a failure of the gateway in its logs.
        failed = isinstance(error, APIStatusError) and error.status_code >= 500
        _fail(str(error) if failed else error.message, 1)
    except ImportError as error:
        _fail(f"Something that this command needs is not installed ({error}); install its package again.", 1)


def _about(error: OSError) -> str:
    """What an operating system refused, and what may be done about it."""
    why = error.strerror or str(error) or type(error).__name__
    if error.filename is not None:
        return f"{os.fsdecode(error.filename)} cannot be used ({why}); check the path, its folder and who may use it."
    if error.errno in NOT_WRITTEN:
        _discard_output()
        return f"What this command says cannot be written ({why}); make room, or send it elsewhere."
    return f"The operating system refused something ({why}); mend that and try again."


def _discard_output() -> None:
    """Have what is still to be flushed go nowhere, so that the interpreter's end says no more of it."""
    with suppress(OSError, ValueError, AttributeError), Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _fail(sentence: str, status: int) -> None:
    typer.echo(f"Error: {sentence}", err=True)
    sys.exit(status)
