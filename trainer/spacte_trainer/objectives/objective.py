"""A base method under a teaching: all that the training loop needs to know of either.

To add a method here, write its file and list its class in `METHODS`; a package of one's own names it in its
entry-point group `spacte.methods`.
"""

from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, BeforeValidator, Field, SerializeAsAny
from torch import Tensor, nn

from spacte_core.errors import reason

from .base import Loss, Method, Step, Terms
from .consistency import Consistency
from .denoise import Denoise
from .drt import Drt
from .gaussian import Gaussian
from .macer import Macer
from .smoothadv import SmoothAdv
from .smoothmix import SmoothMix
from .teaching import CircularTeaching, weigh

METHODS: dict[str, type[Method]] = {
    "gaussian": Gaussian,
    "consistency": Consistency,
    "smoothmix": SmoothMix,
    "smoothadv": SmoothAdv,
    "macer": Macer,
    "drt": Drt,
    "denoise": Denoise,
}
"""Our methods, by name."""

ENTRY_POINTS = "spacte.methods"
"""The entry-point group of other packages' methods: a name, and a subclass of `Method` that has it."""


def method_class(name: object) -> type[Method]:
    """The class of a method of ours, or of an installed package.

    Raises:
        ValueError: there is none of that name, or what a package has under it is no method.
    """
    if isinstance(name, str) and name in METHODS:
        return METHODS[name]
    points = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if not isinstance(name, str) or name not in points:
        raise ValueError(f"there is no method of that name: choose from {', '.join([*METHODS, *points])}")
    try:
        found = points[name].load()
    except Exception as error:  # another package's code
        raise ValueError(f"{points[name].value} cannot be loaded ({reason(error)})") from error
    if not (isinstance(found, type) and issubclass(found, Method)):
        where = points[name].value
        raise ValueError(f"{where} is no subclass of spacte_trainer.objectives.Method")  # noqa: TRY004  for pydantic
    return found


def _of_its_class(value: Any) -> Any:
    return method_class(value.get("name")).model_validate(value) if isinstance(value, Mapping) else value


BaseMethod = Annotated[SerializeAsAny[Method], BeforeValidator(_of_its_class)]


class Objective(BaseModel, frozen=True, extra="forbid"):
    """What is minimised: a base method, and a teaching (None: every head learns on its own)."""

    base: BaseMethod
    teaching: CircularTeaching | None = None
    over_heads: Literal["mean", "sum"] = Field(
        default="mean",
        description="Of the heads' losses. Under the mean, which is published, a head moves by 1/L of its gradient.",
    )

    def mini_batches(self, x_BCHW: Tensor, y_B: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The mini-batches of a loader batch, each of which is one optimiser step (METHODS section 2)."""
        for start, stop in split(len(x_BCHW), self.base.steps_per_batch):
            if start < stop:
                yield x_BCHW[start:stop], y_B[start:stop]

    def loss(self, net: nn.Module, x_BCHW: Tensor, y_B: Tensor, step: Step) -> Loss:
        """The loss of one mini-batch; see `Method.terms` for the arguments."""
        terms = self.base.terms(net, x_BCHW, y_B, step)
        if self.over_heads == "mean":
            return self._taught(net, terms, step)
        heads = len(terms.smoothed_ce_LB)
        loss = self._taught(net, terms.scaled(heads), step)
        return Loss(loss.total, {**loss.parts, "heads": loss.parts["heads"] / heads})

    def _taught(self, net: nn.Module, terms: Terms, step: Step) -> Loss:
        if self.teaching is None:
            return weigh(terms, torch.ones_like(terms.smoothed_ce_LB))
        return self.teaching.combine(net, terms, step)


def spacte(base: BaseMethod, lambda_last: float) -> Objective:
    """SPACTE over a base method, in the form that is published for it (METHODS 3.5, 3.6)."""
    return Objective(base=base.under_teaching(), teaching=CircularTeaching(lambda_last=lambda_last))


def split(batch: int, m: int) -> list[tuple[int, int]]:
    """m consecutive ranges [start, stop) of floor(batch / m) samples; the last batch mod m are in none.

    With batch < m every range is empty.
    """
    size = batch // m
    return [(i * size, (i + 1) * size) for i in range(m)]
