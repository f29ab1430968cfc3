"""Errors that a user can mend; commands show them as one sentence, without a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """The base of every such error: its message is one sentence that names the remedy."""


class DeviceError(UserError):
    """There is no such device on this machine."""


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn a `UserError` into the error that the command line prints as one line, with exit status 1."""
    try:
        yield
    except UserError as error:
        import typer

        raise typer.TyperException(str(error)) from error
