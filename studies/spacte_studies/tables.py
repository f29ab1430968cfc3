"""Which cells a table has, how they are certified, and which values are published (docs/methods.md, 3.8)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Network = Literal["resnet110", "resnet20", "fast"]


@dataclass(frozen=True)
class Protocol:
    """How a trained model is certified.

    Attributes:
        every: every how many-th test image, from the first one on.
        n0, n, alpha: see `LocalCertifier.certify`.
        radii: where certified accuracy is shown.
    """

    every: int
    n0: int
    n: int
    alpha: float
    radii: tuple[float, ...]


PAPER = Protocol(every=20, n0=100, n=100_000, alpha=0.001, radii=tuple(i / 4 for i in range(9)))
"""Of the papers, for CIFAR-10: 500 of the 10,000 test images."""

DIGITS = Protocol(every=1, n0=100, n=10_000, alpha=0.001, radii=(0.0, 0.25, 0.5, 0.75))
"""All held-out digits, with a tenth of the noises, for there are no published values to meet."""


@dataclass(frozen=True)
class Setting:
    """A row of a table, for one noise level; under one seed it is a cell.

    Attributes:
        data: `digits`, or `cifar10-NETWORK`.
        method: of the recipe DATA-METHOD-SIGMA, or DATA-METHOD for the digits.
        published_acr: None where docs/methods.md gives no value.
        own_recipe: the recipe of a study file's cell, in place of that name.
        changes: settings of the recipe that a study file's cell replaces.
        given_name: what a study file calls the cell, of which `method` is what folders are called by.
    """

    data: str
    method: str
    sigma: float
    protocol: Protocol
    published_acr: float | None = None
    own_recipe: str | None = None
    changes: tuple[tuple[str, object], ...] = field(default=(), hash=False)
    given_name: str | None = None

    @property
    def row(self) -> str:
        """What the row is called in a table."""
        return " ".join((self.given_name or self.method).replace("|", "/").split())

    @property
    def recipe(self) -> str:
        """The recipe's name; those of the digits are for any sigma."""
        if self.own_recipe is not None:
            return self.own_recipe
        name = f"{self.data}-{self.method}"
        return name if self.data == "digits" else f"{name}-{self.sigma}"

    def folder_name(self, seed: int) -> str:
        """The name of a cell's folder."""
        cell = f"{self.method}-{self.sigma}-{seed}"
        return cell if self.data == "digits" else f"{self.data}-{cell}"

    def noise(self, seed: int, index: int) -> str:
        """The name that an image's noise is drawn from: each cell and image has its own."""
        study = "digits-methods" if self.data == "digits" else self.data
        return f"{study}/{self.method}/{self.sigma}/{seed}/{index}"


@dataclass(frozen=True)
class Table:
    """A study: every setting under every seed."""

    title: str
    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]


PUBLISHED_ACR: Mapping[tuple[str, float], float] = {
    ("spacte-gaussian", 0.25): 0.537,
    ("spacte-gaussian", 0.5): 0.668,
    ("spacte-gaussian", 1.0): 0.656,
    ("spacte-consistency", 0.25): 0.580,
    ("spacte-consistency", 0.5): 0.745,
    ("spacte-consistency", 1.0): 0.830,
    ("spacte-smoothmix", 0.25): 0.589,
    ("spacte-smoothmix", 0.5): 0.759,
    ("spacte-smoothmix", 1.0): 0.870,
}
"""ResNet-110 on CIFAR-10, 500 images, computed from the logs of the authors' repository."""

DIGITS_METHODS = (
    *("gaussian", "spacte-gaussian", "ensemble-gaussian", "drt-gaussian"),
    *(form + base for base in ("consistency", "smoothmix", "smoothadv", "macer") for form in ("", "spacte-")),
)


def cifar10(method: str, sigma: float, network: Network) -> Setting:
    """A setting of CIFAR-10; the published value belongs to ResNet-110."""
    acr = PUBLISHED_ACR.get((method, sigma)) if network == "resnet110" else None
    return Setting(f"cifar10-{network}", method, sigma, PAPER, acr)


def spacte_cifar10(network: Network) -> Table:
    """The nine published settings, under the published seed; of a network without SmoothMix six."""
    wanted = [cell for cell in PUBLISHED_ACR if network != "fast" or cell[0] != "spacte-smoothmix"]
    settings = tuple(cifar10(method, sigma, network) for method, sigma in wanted)
    return Table("SPACTE on CIFAR-10, five heads", settings, (666,))


def single_against_taught(network: Network) -> Table:
    """One network, five heads taught in a circle, and an ensemble: on the digits and on CIFAR-10."""
    methods = ("gaussian", "spacte-gaussian", "ensemble-gaussian")
    settings = [
        *(Setting("digits", method, sigma, DIGITS) for sigma in (0.25, 0.5) for method in methods),
        *(cifar10(method, sigma, network) for sigma in (0.25, 0.5, 1.0) for method in methods),
    ]
    return Table("One network, five heads taught in a circle, an ensemble", tuple(settings), (0, 1, 2))


def digits(network: Network) -> Table:  # noqa: ARG001 - one signature for all
    """Every method on the digits."""
    settings = (Setting("digits", method, sigma, DIGITS) for sigma in (0.25, 0.5) for method in DIGITS_METHODS)
    return Table("Every method on the digits", tuple(settings), (0, 1, 2))


TABLES = {"spacte-cifar10": spacte_cifar10, "single-vs-spacte-vs-ensemble": single_against_taught, "digits": digits}
