"""What a run measures of itself: the losses of an epoch's steps, and a report an epoch."""

from dataclasses import dataclass, field

from torch import Tensor

from .evaluation import Accuracy
from .objectives import Loss


@dataclass
class LossMeter:
    """Sums of the parts of a loss, kept on the device so that counting a step does not wait for it."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0

    def add(self, loss: Loss) -> None:
        """Count one step."""
        for name, value in {"loss": loss.total, **loss.parts}.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
        self.steps += 1

    def means(self) -> dict[str, list[float]]:
        """The mean of each part, as a list with one number for each of its elements; waits for the device."""
        return {name: (total / self.steps).reshape(-1).tolist() for name, total in self.sums.items()}


@dataclass(frozen=True)
class EpochReport:
    """The measurements of an epoch.

    Attributes:
        rate: learning rate of its last step.
        steps: optimiser steps.
        seconds: wall time without the validation pass.
        losses: mean over the steps of each part of the loss; `heads` has one number a head.
        validation: accuracy on noisy test images, one draw each; None where it was not measured.
    """

    epoch: int
    epochs: int
    rate: float
    steps: int
    seconds: float
    losses: dict[str, list[float]]
    validation: Accuracy | None

    def scalars(self) -> dict[str, float]:
        """The report as named numbers: `loss/ce`, `heads/0`, `accuracy/ensemble` ..."""
        found = {"rate": self.rate, "seconds": self.seconds}
        for name, values in self.losses.items():
            if name == "heads":
                found |= {f"heads/{i}": value for i, value in enumerate(values)}
            else:
                found[f"loss/{name}"] = values[0]
        if self.validation is not None:
            found["accuracy/ensemble"] = self.validation.ensemble
            found["accuracy/disagreement"] = self.validation.disagreement
            found |= {f"accuracy/head_{i}": value for i, value in enumerate(self.validation.heads)}
        return found
