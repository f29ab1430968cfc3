"""Errors that a user can mend, shown by the commands as one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from spacte_trainer.checkpoint import CheckpointError
from spacte_trainer.config import ConfigError
from spacte_trainer.data import DataError
from spacte_trainer.recipes import RecipeError
from spacte_trainer.state import StateError

USER_ERRORS = (CheckpointError, ConfigError, DataError, RecipeError, StateError)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn an error of this package into one that the command line prints without a traceback."""
    try:
        yield
    except USER_ERRORS as error:
        raise typer.TyperException(str(error)) from error
