"""Several whole networks as one base classifier: the sum of their raw logits decides (METHODS section 8)."""

import operator
from collections.abc import Iterable, Sequence
from functools import reduce

from torch import Tensor, nn

from .multihead import MultiHeadNet


class Member(nn.Module):
    """A whole network as one head: its own normalisation, and the sum of its head logits."""

    def __init__(self, net: MultiHeadNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits_BK."""
        return sum_logits(self.net(x_BCHW))


class Ensemble(MultiHeadNet):
    """A `MultiHeadNet` whose backbone is the identity and whose heads are the members.

    All members see the same noisy input, except that a 5-d input gives each member its own.
    """

    def __init__(self, members: Iterable[MultiHeadNet]) -> None:
        super().__init__(nn.Identity(), nn.Identity(), [Member(net) for net in members])

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        """Logits_BK of every member, for x_BCHW or, with one input a member, x_LBCHW."""
        inputs = x_BCHW if x_BCHW.dim() == 5 else [x_BCHW] * len(self.heads)
        return [member(x) for member, x in zip(self.heads, inputs, strict=True)]


def sum_logits(logits: Sequence[Tensor]) -> Tensor:
    """The sum over heads, whose argmax is the vote."""
    return reduce(operator.add, logits)
