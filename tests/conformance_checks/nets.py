"""The small networks of the vectors in the library's form, and draws that replay recorded randomness."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from spacte_core.models import MultiHeadNet
from spacte_core.models.ensemble import Ensemble


class RecordedDraws:
    """Replays normal and uniform tensors in their order, and refuses a request for another shape."""

    def __init__(self, normal: Iterable[Tensor] = (), uniform: Iterable[Tensor] = ()) -> None:
        self.queues = {"normal": list(normal), "uniform": list(uniform)}

    def normal(self, shape: Sequence[int]) -> Tensor:
        """The next normal tensor."""
        return self._next("normal", shape)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """The next uniform tensor."""
        return self._next("uniform", shape)

    def _next(self, kind: str, shape: Sequence[int]) -> Tensor:
        drawn = self.queues[kind].pop(0)
        if drawn.shape != torch.Size(shape):
            raise AssertionError(f"{kind} draw of {list(shape)} asked for, {list(drawn.shape)} recorded")
        return drawn.clone()


class Answers(nn.Module):
    """A network that answers with given logits_LmBK, whatever it sees."""

    def __init__(self, logits_LmBK: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits_LmBK)

    def forward(self, x_NCHW: Tensor) -> list[Tensor]:
        """Logits_NK of every head, draw-major."""
        return list(self.logits.flatten(1, 2))


def linear(W: Tensor, b: Tensor) -> nn.Linear:
    """z = W @ h + b."""
    layer = nn.Linear(W.shape[1], W.shape[0], dtype=W.dtype)
    with torch.no_grad():
        layer.weight.copy_(W)
        layer.bias.copy_(b)
    return layer


def linear_net(W: Tensor, b: Tensor) -> MultiHeadNet:
    """z_l = W[l] @ flatten(x) + b[l]; two-dimensional W is one head."""
    if W.dim() == 2:
        W, b = W[None], b[None]
    return MultiHeadNet(nn.Identity(), nn.Flatten(), [linear(*head) for head in zip(W, b, strict=True)])


def trunk_net(A: Tensor, a: Tensor, W: Tensor, b: Tensor) -> MultiHeadNet:
    """z_l = W[l] @ tanh(A @ flatten(x) + a) + b[l]."""
    trunk = nn.Sequential(nn.Flatten(), linear(A, a), nn.Tanh())
    return MultiHeadNet(nn.Identity(), trunk, [linear(*head) for head in zip(W, b, strict=True)])


def mlp_ensemble(W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor) -> Ensemble:
    """Member i: z = W2[i] tanh(W1[i] flatten(x) + b1[i]) + b2[i]."""
    return Ensemble([trunk_net(A, a, W[None], b[None]) for A, a, W, b in zip(W1, b1, W2, b2, strict=True)])


def named(net: MultiHeadNet) -> dict[str, list[nn.Parameter]]:
    """Parameters by the vectors' names: `W` and `b`, one a head, and `A` and `a` of a trunk."""
    linears = [head for head in net.heads if isinstance(head, nn.Linear)]
    groups = {"W": [head.weight for head in linears], "b": [head.bias for head in linears]}
    for layer in net.backbone.children():
        if isinstance(layer, nn.Linear):
            groups |= {"A": [layer.weight], "a": [layer.bias]}
    return groups


def values(net: MultiHeadNet) -> dict[str, Tensor]:
    """Copies of the parameters, heads stacked."""
    return {name: torch.stack([p.detach().clone() for p in group]) for name, group in named(net).items()}


def gradients(net: MultiHeadNet) -> dict[str, Tensor]:
    """Copies of the gradients, heads stacked."""
    return {
        name: torch.stack([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in group])
        for name, group in named(net).items()
    }
