"""Named configurations: `load_recipe("digits-spacte-gaussian")`. One file a data set and network."""

import difflib
from importlib.metadata import EntryPoint, entry_points

from spacte_core.errors import UserError, reason
from spacte_trainer.config import SIGMA_LEAST, SIGMA_MOST, TrainConfig

from . import cifar10, cifar10_fast, cifar10_resnet20, digits, imagenet
from .base import ANY_SIGMA, ENTRIES, Entry, RecipeError

__all__ = [
    "ENTRIES",
    "Entry",
    "RecipeError",
    "cifar10",
    "cifar10_fast",
    "cifar10_resnet20",
    "digits",
    "imagenet",
    "load_recipe",
]


RECIPES = "spacte.recipes"
"""The entry-point group of other packages' recipes: a name, and a function from sigma to a `TrainConfig`."""


def _add_installed() -> None:
    """List the recipes of installed packages; ours keep their names."""
    for point in entry_points(group=RECIPES):
        if point.name not in ENTRIES:
            ENTRIES[point.name] = _installed(point)


def _installed(point: EntryPoint) -> Entry:
    package = f"the package {point.dist.name if point.dist else point.module}"

    def make(sigma: float) -> TrainConfig:
        try:
            found = point.load()(sigma)
        except UserError:
            raise
        except Exception as error:  # another package's code
            raise RecipeError(f"Recipe {point.name!r} of {package} cannot be had: {reason(error)}") from error
        if not isinstance(found, TrainConfig):
            raise RecipeError(f"Recipe {point.name!r} of {package} is no TrainConfig but a {type(found).__name__}.")
        return found

    return Entry(make, ANY_SIGMA, f"Of {package}.")


_add_installed()


def load_recipe(name: str, sigma: float | None = None) -> TrainConfig:
    """The configuration of a recipe, at another noise level if asked.

    A recipe whose settings depend on sigma takes those that belong to it. `NAME` with a sigma is `NAME-SIGMA`.

    Raises:
        RecipeError: there is no such recipe, or it has no settings for this sigma.
    """
    if sigma is not None and not SIGMA_LEAST <= sigma <= SIGMA_MOST:
        raise RecipeError(
            f"A noise level of {sigma} cannot be trained with: give --sigma one from {SIGMA_LEAST} to {SIGMA_MOST}."
        )
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
