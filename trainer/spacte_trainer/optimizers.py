"""The optimiser of a run: SGD for every weight, or Muon for its matrices and SGD for the rest (METHODS section 10).

`torch.optim.Muon` takes weights of two dimensions alone, and reads its rate on the host, which a recorded step cannot;
so the few lines of it that serve convolutions are here.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from .config import ConfigError, MuonConfig, TrainConfig

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""(a, b, c) of a x + b x^3 + c x^5, as published for Muon: steep at zero, so that five steps take the singular values
of most matrices to between .7 and 1.2, although they never come to rest at 1."""

LEAST_NORM = 1e-7
"""What norms are divided by at least. Published (`torch.optim.Muon` has the same): a gradient of zeros stays zeros."""

Rate = float | Tensor


def orthogonalized(m_RC: Tensor, steps: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """About U V^T, where U S V^T is the singular value decomposition of a matrix, by Newton-Schulz steps.

        X <- m / |m|,   then `steps` times   X <- a X + (b X X^T + c (X X^T)^2) X

    Args:
        m_RC: any matrix.
        steps: five are published; the more, the smaller the singular values that are raised.
        dtype: what is computed in and returned; bf16 is enough.

    Returns:
        [R, C], with singular values between about .7 and 1.2 where those of `m_RC` are not too small beside its norm.
    """
    a, b, c = COEFFICIENTS
    tall = m_RC.shape[0] > m_RC.shape[1]
    x = (m_RC.T if tall else m_RC).to(dtype)
    x = x / x.norm().clamp(min=LEAST_NORM)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(Optimizer):
    """Orthogonalised momentum for weights of two or more dimensions, whose norms stay what they are.

        v <- mu v + g,   o = orthogonalized(g + mu v),   w <- |w0| u / |u|  with  u = w - rate |w| o / |o|

    Norms are Frobenius', at least 1e-7, and a convolution's weight [out, in, k, k] counts as the matrix
    [out, in * k * k]. So `rate` is the relative length of a step, all that counts where batch normalisation follows;
    there is no weight decay.

    K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; that norms are kept is from the
    CIFAR-10 speed record with Muon by the same (airbench94_muon, 2024), where they are the root of `out`.
    """

    def __init__(
        self, weights: Sequence[nn.Parameter], rate: Rate, options: MuonConfig, share: float, dtype: torch.dtype
    ) -> None:
        """`share` times the rate of the group is the rate of these weights; `dtype` is what `orthogonalized` takes."""
        super().__init__(weights, {"lr": rate, "share": share, "momentum": options.momentum, "steps": options.steps})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take a step; weights without a gradient stay.

        Raises:
            ValueError: a closure is given, which torch's signature has; gradients are there already.
        """
        if closure is not None:
            raise ValueError("Muon takes no closure: compute the gradients first.")
        for group in self.param_groups:
            rate = group["lr"] * group["share"]
            for w in group["params"]:
                if w.grad is not None:
                    self._turn(w, w.grad, rate, group["momentum"], group["steps"])

    def _turn(self, w: Tensor, g: Tensor, rate: Rate, momentum: float, steps: int) -> None:
        state = self.state[w]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(w)
        v = state["momentum_buffer"].mul_(momentum).add_(g)
        nesterov = g.add(v, alpha=momentum)
        o = orthogonalized(nesterov.flatten(1), steps, self.dtype).to(w.dtype).reshape(w.shape)
        norm = w.norm()
        w.sub_(o * (rate * norm.clamp(min=LEAST_NORM) / o.norm().clamp(min=LEAST_NORM)))
        w.mul_(torch.where(norm > LEAST_NORM, norm / w.norm().clamp(min=LEAST_NORM), 1))


class SgdAndMuon:
    """Two optimisers that are used as one: as much of torch's interface as the loop needs."""

    def __init__(self, sgd: SGD, muon: Muon) -> None:
        self.parts: dict[str, Optimizer] = {"sgd": sgd, "muon": muon}

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both."""
        return [group for part in self.parts.values() for group in part.param_groups]

    def zero_grad(self) -> None:
        """Forget the gradients of both."""
        for part in self.parts.values():
            part.zero_grad()

    def step(self) -> None:
        """Take a step of both."""
        for part in self.parts.values():
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Those of both, by their names."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        for name, part in self.parts.items():
            part.load_state_dict(state[name])


def matrices_of(net: nn.Module, num_classes: int) -> list[nn.Parameter]:
    """What Muon takes: weights of convolutions, and of linear layers but those that give the logits of the classes."""
    return [
        cast("nn.Parameter", module.weight)
        for module in net.modules()
        if isinstance(module, nn.Conv2d) or (isinstance(module, nn.Linear) and module.out_features != num_classes)
    ]


def optimizer_of(config: TrainConfig, net: nn.Module, rate: Rate) -> Optimizer | SgdAndMuon:
    """The optimiser that a configuration asks for.

    Args:
        config: its `optimizer`, and its `precision`, in which Muon orthogonalises.
        net: what is trained.
        rate: the rate of SGD, which the loop changes; a tensor where steps are recorded.

    Raises:
        ConfigError: Muon is asked for, and there is no weight for it.
    """
    options = config.optimizer
    sgd = {"momentum": options.momentum, "weight_decay": options.weight_decay, "nesterov": options.nesterov}
    if options.muon is None:
        return SGD(net.parameters(), lr=rate, fused=True, **sgd)
    matrices = matrices_of(net, config.model.num_classes)
    if not matrices:
        raise ConfigError(f"Muon finds no convolution in {config.model.arch}: set optimizer.muon=null.")
    taken = set(matrices)
    rest = [p for p in net.parameters() if p not in taken]
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    muon = Muon(matrices, rate, options.muon, options.muon.lr / options.lr, dtype)
    return SgdAndMuon(SGD(rest, lr=rate, fused=True, **sgd), muon)
