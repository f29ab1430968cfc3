"""Named configurations: `load_recipe("digits-spacte-gaussian")`. One file a data set and network."""

import difflib
import math

from spacte_trainer.config import TrainConfig

from . import cifar10, cifar10_resnet20, digits, imagenet
from .base import ENTRIES, Entry, RecipeError

__all__ = ["ENTRIES", "Entry", "RecipeError", "cifar10", "cifar10_resnet20", "digits", "imagenet", "load_recipe"]


def load_recipe(name: str, sigma: float | None = None) -> TrainConfig:
    """The configuration of a recipe, at another noise level if asked.

    A recipe whose settings depend on sigma takes those that belong to it. `NAME` with a sigma is `NAME-SIGMA`.

    Raises:
        RecipeError: there is no such recipe, or it has no settings for this sigma.
    """
    if sigma is not None and not 0 < sigma < math.inf:
        raise RecipeError(f"A noise level of {sigma} cannot be trained with: give --sigma a number above 0.")
    levels = {entry.sigma: full for full, entry in ENTRIES.items() if full == f"{name}-{entry.sigma}"}
    if levels and name not in ENTRIES:
        if sigma is None:
            known = ", ".join(map(str, sorted(levels)))
            raise RecipeError(f"Recipe {name!r} needs a noise level: add --sigma with one of {known}.")
        name = levels.get(sigma, next(iter(levels.values())))
    if name not in ENTRIES:
        near = difflib.get_close_matches(name, ENTRIES, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "`spacte recipes` lists them."
        raise RecipeError(f"There is no recipe {name!r}: {hint}")
    entry = ENTRIES[name]
    if sigma is None:
        sigma = entry.sigma
    elif name.endswith(f"-{entry.sigma}"):
        name = f"{name.removesuffix(str(entry.sigma))}{sigma}"
    return entry.make(sigma).model_copy(update={"recipe": name})
