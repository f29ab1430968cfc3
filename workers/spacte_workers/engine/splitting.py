"""Any base classifier in one form: an affine encoding of pixels, a trunk that runs once, and heads that
answer.

Networks with `normalize`, `backbone` and `heads` (those of `spacte_core.models`) are taken apart, so
that the normalisation can join the noise step and heads can be run for some rows only. Any other module
becomes a trunk that computes all logits, and heads that pick theirs.
"""

import torch
from torch import Tensor, nn

from spacte_core.classifier import Classifier

from .errors import EngineError

_PROBES = 5


class AllLogits(nn.Module):
    """The trunk of a module that was not taken apart: logits of all heads, [B, L, K]."""

    def __init__(self, module: nn.Module, heads: int | None) -> None:
        super().__init__()
        self.module = module
        self.heads = heads  # None where the module returns one tensor; known here, so that tracing can work

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits [B, L, K]; L = 1 where the module returns one tensor."""
        answer = self.module(x_BCHW)
        if self.heads is None:
            return answer.unsqueeze(1)
        return torch.stack([answer[index] for index in range(self.heads)], dim=1)


class Pick(nn.Module):
    """The head of such a module: logits [B, K] of head `index`."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def forward(self, logits_BLK: Tensor) -> Tensor:
        """Logits [B, K]."""
        return logits_BLK[:, self.index]


def split_classifier(module: nn.Module, example_BCHW: Tensor, num_classes: int) -> Classifier:
    """The module in eval mode as a `Classifier`.

    Args:
        module: x_BCHW in [0, 1] plus noise -> logits [B, K], or a list of L such tensors.
        example_BCHW: an input, to see what comes out and to prove that the parts do what the whole does.
        num_classes: K.

    Raises:
        EngineError: what comes out is not logits of the shape stated.
    """
    try:
        answer = module(example_BCHW)
        whole = AllLogits(module, None if isinstance(answer, Tensor) else len(answer))
        logits_BLK = whole(example_BCHW)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise EngineError(f"The module fails on a batch of shape {list(example_BCHW.shape)}: {error}") from error
    wanted = (len(example_BCHW), num_classes)
    if logits_BLK.dim() != 3 or (logits_BLK.shape[0], logits_BLK.shape[2]) != wanted:
        raise EngineError(
            f"The module gives logits of shape {[logits_BLK.shape[0], *logits_BLK.shape[2:]]} for a batch of "
            f"{wanted[0]}, but {list(wanted)} is needed: correct num_classes or the module."
        )
    if not logits_BLK.isfinite().all():
        raise EngineError("The module gives NaN or infinite logits on noisy images: train it, or load its weights.")
    parts = _parts(module, example_BCHW)
    if parts is not None and torch.equal(_run(parts, example_BCHW), logits_BLK):
        return _encoded(parts, example_BCHW)
    channels = example_BCHW.shape[1]
    heads = tuple(Pick(index) for index in range(logits_BLK.shape[1]))
    return Classifier((1.0,) * channels, (0.0,) * channels, whole, heads)


def _parts(module: nn.Module, example_BCHW: Tensor) -> Classifier | None:
    """The parts by their names, with the normalisation still in the trunk; None for other modules."""
    normalize, backbone = getattr(module, "normalize", None), getattr(module, "backbone", None)
    heads = getattr(module, "heads", None)
    if not (isinstance(normalize, nn.Module) and isinstance(backbone, nn.Module)):
        return None
    if not isinstance(heads, nn.ModuleList) or not len(heads):
        return None
    channels = example_BCHW.shape[1]
    return Classifier((1.0,) * channels, (0.0,) * channels, nn.Sequential(normalize, backbone), tuple(heads))


def _run(network: Classifier, x_BCHW: Tensor) -> Tensor:
    try:
        features = network.trunk(x_BCHW)
        return torch.stack([head(features) for head in network.heads], dim=1)
    except (RuntimeError, TypeError, ValueError, AttributeError):
        return torch.empty(0)


def _encoded(network: Classifier, example_BCHW: Tensor) -> Classifier:
    """Take the normalisation out of the trunk, if it is affine per channel."""
    normalize, backbone = network.trunk.children()
    zero, one = torch.zeros_like(example_BCHW[:1]), torch.ones_like(example_BCHW[:1])
    shift = normalize(zero)
    if shift.shape != zero.shape:
        return network
    scale = normalize(one) - shift
    shift_C, scale_C = shift[0, :, 0, 0], scale[0, :, 0, 0]
    generator = torch.Generator().manual_seed(0)
    for _ in range(_PROBES):
        x = torch.rand(example_BCHW.shape, generator=generator).to(example_BCHW.device) * 4 - 2
        affine = x * scale_C[:, None, None] + shift_C[:, None, None]
        if not torch.allclose(normalize(x), affine, rtol=1e-4, atol=1e-5):
            return network
    return Classifier(tuple(scale_C.tolist()), tuple(shift_C.tolist()), backbone, network.heads)
