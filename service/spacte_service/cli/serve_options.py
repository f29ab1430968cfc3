"""The options of `spacte serve`: one for each setting, with its environment variable; and what it runs."""

import inspect
import os
import sys
import types
import typing
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from spacte_service.settings import Settings

options_app = typer.Typer(add_completion=False, rich_markup_mode=None)


def option_of(name: str) -> inspect.Parameter:
    """The command-line option of one setting; None where it is left out, so that the default counts."""
    field = Settings.model_fields[name]
    kind = field.annotation
    flag = "--" + name.replace("_", "-")
    default = None if kind is bool or field.default is None else str(field.default)
    option = typer.Option(
        f"{flag}/--no-{flag[2:]}" if kind is bool else flag,
        help=field.description,
        envvar=f"SPACTE_{name.upper()}",
        show_default=default or False,
    )
    optional = kind if isinstance(kind, types.UnionType) else typing.Optional[kind]  # noqa: UP045  built at run time
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[optional, option])


def serve(**options: Any) -> None:
    """Serve by these settings, and exit with the server's code."""
    try:
        settings = Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        raise typer.TyperException(_sentence(error)) from None
    from spacte_service.keys import KeysFileError
    from spacte_service.server import serve as run
    from spacte_service.signing_keys import SigningKeysError
    from spacte_workers.errors import RuntimeFault

    try:
        code = run(settings)
    except (RuntimeFault, KeysFileError, SigningKeysError) as error:
        raise typer.TyperException(str(error)) from None
    except OSError as error:
        where = error.filename or settings.host
        sentence = f"Cannot listen on {where} ({error.strerror}); choose another port."
        raise typer.TyperException(sentence) from None
    from spacte_workers.serving.pools import is_loading

    if is_loading():  # a step of a load may take a minute, and there is no more need for it
        sys.stdout.flush()
        os._exit(code)
    raise typer.Exit(code)


def _sentence(error: ValidationError) -> str:
    """What is wrong with the first option, or with how options go together."""
    first = error.errors()[0]
    reason = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return f"{reason[0].upper()}{reason[1:]}."
    name = str(first["loc"][0])
    return f"--{name.replace('_', '-')} (or SPACTE_{name.upper()}): {reason}."


# Typer reads the options from here, so that no setting can lack its flag.
setattr(serve, "__signature__", inspect.Signature([option_of(name) for name in Settings.model_fields]))  # noqa: B010
options_app.command()(serve)
