"""The processes that train one network together: here a group of one, in `distributed.py` larger ones."""

from collections.abc import Mapping

from torch import nn


class ProcessGroup:
    """One process on its own.

    Attributes:
        rank: which process this is, 0 to size - 1; process 0 keeps the records.
        size: how many there are.
    """

    rank = 0
    size = 1

    def wrap(self, net: nn.Module) -> nn.Module:
        """The network with its gradients and batch statistics shared by the group."""
        return net

    def barrier(self) -> None:
        """Wait until every process of the group has come here."""

    def mean(self, values: Mapping[str, list[float]]) -> dict[str, list[float]]:
        """The means over the group of numbers that each of its processes has measured."""
        return dict(values)
