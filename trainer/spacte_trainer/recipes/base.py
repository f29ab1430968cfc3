"""The list of recipes: each is a function of sigma that returns a full configuration."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from spacte_core.errors import UserError
from spacte_trainer.config import TrainConfig


class RecipeError(UserError):
    """A recipe that does not exist or has no settings for a sigma; one sentence that names the remedy."""


@dataclass(frozen=True)
class Entry:
    """A recipe under one name.

    Attributes:
        make: from a noise level to a configuration.
        sigma: the noise level it is listed with.
        summary: one line for `spacte recipes`.
    """

    make: Callable[[float], TrainConfig]
    sigma: float
    summary: str


ENTRIES: dict[str, Entry] = {}

ANY_SIGMA = 0.25
"""The noise level that a recipe for any is listed with: the lowest of the papers' three."""


def add_recipes(
    family: str, make: Callable[[str, float], TrainConfig], summaries: Mapping[str, str], sigmas: Sequence[float] = ()
) -> None:
    """List `make(method, sigma)` for each method, as FAMILY-METHOD-SIGMA for each sigma, or as FAMILY-METHOD for any.

    A family is a data set and a network; `summaries` has a line about each method.
    """
    for method, summary in summaries.items():
        for sigma in sigmas:
            entry = Entry(partial(make, method), sigma, f"{summary.rstrip('.')}, sigma {sigma}.")
            ENTRIES[f"{family}-{method}-{sigma}"] = entry
        if not sigmas:
            ENTRIES[f"{family}-{method}"] = Entry(partial(make, method), ANY_SIGMA, summary)


T = TypeVar("T")


def published(by_sigma: Mapping[float, T], sigma: float) -> T:
    """The settings for a noise level; raises RecipeError where none are known."""
    if sigma not in by_sigma:
        known = ", ".join(map(str, by_sigma))
        raise RecipeError(
            f"This recipe has settings for sigma {known} and none for {sigma}: "
            "choose one of them, or keep its settings and change only the noise with --set sigma=VALUE."
        )
    return by_sigma[sigma]
