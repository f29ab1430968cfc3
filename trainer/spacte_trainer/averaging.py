"""An exponential moving average of a network's weights and batch statistics, which a run can leave in their place."""

from typing import Any

import torch
from torch import Tensor, nn

RAMP = 9
"""After n steps the decay is at most n / (n + RAMP), so that the first weights are forgotten. Chosen: after a hundred
steps that is .92, and of the usual decays only much longer averages notice it."""


class WeightAverage:
    """A running average of everything in a network's state dict that is a number with a point.

        a <- d a + (1 - d) w after every step,     d = min(decay, n / (n + 9)) after step n

    The running means and variances of batch normalisation are averaged like weights; its counters are copied.

    Attributes:
        decay: in (0, 1); the average reaches back about 1 / (1 - decay) steps.
        steps: n, those that are in it.
        values: the average, by the names of the state dict, on the network's device.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.values: dict[str, Tensor] = {name: value.detach().clone() for name, value in net.state_dict().items()}

    @torch.no_grad()
    def add(self, net: nn.Module) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        share = 1 - min(self.decay, self.steps / (self.steps + RAMP))
        for name, value in net.state_dict().items():
            mean = self.values[name]
            if mean.is_floating_point():
                mean.lerp_(value, share)
            else:
                mean.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes: steps and values."""
        return {"steps": self.steps, "values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of an average over a network of the same layers."""
        self.steps = state["steps"]
        for name, value in state["values"].items():
            self.values[name].copy_(value)
