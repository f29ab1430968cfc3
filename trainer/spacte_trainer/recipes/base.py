"""The list of recipes: functions of sigma that return a full configuration."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from spacte_core.errors import UserError
from spacte_trainer.config import TrainConfig


class RecipeError(UserError):
    """A recipe that does not exist or has no settings for a sigma; one sentence that names the remedy."""


Recipe = Callable[[float], TrainConfig]


@dataclass(frozen=True)
class Entry:
    """A recipe under one name.

    Attributes:
        make: the function.
        sigma: the noise level it is listed with.
        summary: first line of the function's docstring.
    """

    make: Recipe
    sigma: float
    summary: str


ENTRIES: dict[str, Entry] = {}


def recipe(name: str, sigmas: Sequence[float] = ()) -> Callable[[Recipe], Recipe]:
    """List a function as NAME-SIGMA for each sigma it has settings for, or as NAME (at 0.25) for any."""

    def enter(make: Recipe) -> Recipe:
        summary = (make.__doc__ or "").partition("\n")[0]
        if sigmas:
            for sigma in sigmas:
                ENTRIES[f"{name}-{sigma}"] = Entry(make, sigma, f"{summary.rstrip('.')}, sigma {sigma}.")
        else:
            ENTRIES[name] = Entry(make, 0.25, summary)
        return make

    return enter


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
