"""A class in a Python file of the user's: `python:FILE.py:CLASS`. The file is run, as its user would run it."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

from torch import nn

from spacte_core.checkpoint import CheckpointError
from spacte_core.models import Normalization

from .base import HUB, Source, SourceOptions, load_weights, no_such_model, read_state_dict


def load(name: str, options: SourceOptions) -> Source:
    """The module that the class, or any callable of that name, makes without arguments; see `load_source`."""
    path, _, attribute = name.rpartition(":")
    if not path or not attribute.isidentifier():
        raise CheckpointError(f"python:{name} names no class in a file: write python:FILE.py:CLASS.")
    if options.input_shape is None:
        raise CheckpointError(f"{path} does not say which images {attribute} takes: give --input-shape C,H,W.")
    if options.weights == HUB:
        raise CheckpointError(f"Nobody publishes weights of {attribute}: name a file with --weights FILE, or random.")
    made: Any = _in_file(Path(path), attribute)
    try:
        module = made if isinstance(made, nn.Module) else made()
    except Exception as error:  # the user's own code fails in any way it likes
        raise CheckpointError(
            f"{attribute}() fails ({type(error).__name__}: {error}): give its arguments defaults, or name a function "
            "without arguments that makes it."
        ) from error
    if not isinstance(module, nn.Module):
        raise CheckpointError(f"{attribute}() is a {type(module).__name__} and no torch.nn.Module: name one that is.")
    if options.file is not None:
        load_weights(module, read_state_dict(options.file, module), options.file)
    return Source(module, options.input_shape, Normalization())


def _in_file(path: Path, attribute: str) -> Any:
    """What a file defines under a name; imports beside it work, as where Python runs it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise CheckpointError(f"{path} is no Python file: name one.")
    found = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(found)
    except Exception as error:  # as above
        raise CheckpointError(f"{path} cannot be run ({type(error).__name__}: {error}): mend it.") from error
    finally:
        sys.path.pop(0)
    if not hasattr(found, attribute):
        raise no_such_model(str(path), attribute, vars(found))
    return getattr(found, attribute)
