"""Errors that a user can mend; commands show them as one sentence, without a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any


class UserError(Exception):
    """The base of every such error: its message is one sentence that names the remedy."""


class DataError(UserError):
    """Data that cannot be trained on or certified; the message is one sentence that names the remedy."""


class DeviceError(UserError):
    """There is no such device on this machine."""


class MissingPackageError(UserError):
    """A package that only some models or data sets need is not installed."""


def optional_package(module: str, extra: str) -> Any:
    """Import a module of a package that only some models or data sets need.

    Args:
        module: its name.
        extra: of `spacte-workers`, which installs it.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f"This needs {module.partition('.')[0]}, which is not installed here ({error.name or error}): "
            f"pip install 'spacte-workers[{extra}]'."
        ) from error


def reason(error: BaseException) -> str:
    """What another package's error says, on one line and after its type, as a part of a sentence."""
    return " ".join(f"{type(error).__name__}: {error}".split())


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn a `UserError` into the error that the command line prints as one line, with exit status 1."""
    try:
        yield
    except UserError as error:
        import typer

        raise typer.TyperException(str(error)) from error
