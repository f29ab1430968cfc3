"""Any base classifier in one form: an affine encoding of pixels, a trunk that runs once, and heads that answer.

Networks with `normalize`, `backbone` and `heads` (those of `spacte_core.models`) are taken apart, so that the
normalisation can join the noise step and heads can be run for some rows only. Any other module becomes a trunk that
computes all logits, and heads that pick theirs.
"""

import torch
from torch import Tensor, nn

from spacte_core.forms import Classifier, Encoding
from spacte_core.models.adapters import WHAT_TO_RETURN, fails, is_logits, named, unusual
from spacte_core.models.multihead import Pick
from spacte_workers.errors import RuntimeFault

from .errors import EngineError

_PROBES = 5  # random inputs on which a normalisation must be affine. Chosen: no other function passes them by chance


class AllLogits(nn.Module):
    """The trunk of a module that was not taken apart: logits of all heads, [B, L, K].

    Args:
        module: what computes them.
        heads: L, or None where the module returns one tensor; known here, so that tracing can work.
    """

    def __init__(self, module: nn.Module, heads: int | None) -> None:
        super().__init__()
        self.module, self.heads = module, heads

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits [B, L, K]; L = 1 where the module returns one tensor."""
        logits = self.module(x_BCHW)
        if self.heads is None:
            return logits.unsqueeze(1)
        return torch.stack([logits[index] for index in range(self.heads)], dim=1)


def decompose(module: nn.Module, example_BCHW: Tensor, num_classes: int) -> Classifier:
    """The module in eval mode as a `Classifier`.

    Args:
        module: x_BCHW in [0, 1] plus noise -> logits [B, K], or a list of L such tensors.
        example_BCHW: an input, to see what the module returns and to check that the parts compute what the whole does.
        num_classes: K.

    Raises:
        EngineError: the module does not return logits of the shape stated.
    """
    try:
        logits = module(example_BCHW)
    except RuntimeFault:  # of an endpoint
        raise
    except Exception as error:  # the module's own code fails in any way it likes
        raise EngineError(fails(example_BCHW, error)) from error
    if not is_logits(logits):
        raise EngineError(
            f"The module returns a {named(logits)}: {WHAT_TO_RETURN}, or wrap the module in LogitsOf(module)."
        )
    if what := unusual([logits] if isinstance(logits, Tensor) else logits):
        raise EngineError(what)
    try:
        whole = AllLogits(module, None if isinstance(logits, Tensor) else len(logits))
        logits_BLK = whole(example_BCHW)
    except (RuntimeError, IndexError) as error:  # heads of several shapes
        raise EngineError(fails(example_BCHW, error)) from error
    wanted = (len(example_BCHW), num_classes)
    if logits_BLK.dim() != 3 or (logits_BLK.shape[0], logits_BLK.shape[2]) != wanted:
        raise EngineError(
            f"The module gives logits of shape {[logits_BLK.shape[0], *logits_BLK.shape[2:]]} for a batch of "
            f"{wanted[0]}, but {list(wanted)} is needed: correct num_classes or the module."
        )
    if not logits_BLK.isfinite().all():
        raise EngineError("The module gives NaN or infinite logits on noisy images: train it, or load its weights.")
    normalize, backbone, heads = (getattr(module, name, None) for name in ("normalize", "backbone", "heads"))
    if isinstance(normalize, nn.Module) and isinstance(backbone, nn.Module) and isinstance(heads, nn.ModuleList):
        try:
            features = backbone(normalize(example_BCHW))
            if torch.equal(torch.stack([head(features) for head in heads], dim=1), logits_BLK):
                return _encoded(normalize, backbone, tuple(heads), example_BCHW)
        except Exception:  # noqa: BLE001, S110
            pass  # its parts are called in another way: it is used as a whole
    return _unencoded(whole, tuple(map(Pick, range(logits_BLK.shape[1]))), example_BCHW)


def _unencoded(trunk: nn.Module, heads: tuple[nn.Module, ...], example_BCHW: Tensor) -> Classifier:
    channels = example_BCHW.shape[1]
    return Classifier(Encoding((1.0,) * channels, (0.0,) * channels), trunk, heads)


def _encoded(
    normalize: nn.Module, backbone: nn.Module, heads: tuple[nn.Module, ...], example_BCHW: Tensor
) -> Classifier:
    """The normalisation becomes the encoding, if it is affine per channel; else it stays in the trunk."""
    together = _unencoded(nn.Sequential(normalize, backbone), heads, example_BCHW)
    zero, one = torch.zeros_like(example_BCHW[:1]), torch.ones_like(example_BCHW[:1])
    shift = normalize(zero)
    if shift.shape != zero.shape:
        return together
    scale = normalize(one) - shift
    shift_C, scale_C = shift[0, :, 0, 0], scale[0, :, 0, 0]
    generator = torch.Generator().manual_seed(0)
    for _ in range(_PROBES):
        x = torch.rand(example_BCHW.shape, generator=generator).to(example_BCHW.device) * 4 - 2
        affine = x * scale_C[:, None, None] + shift_C[:, None, None]
        if not torch.allclose(normalize(x), affine, rtol=1e-4, atol=1e-5):
            return together
    return Classifier(Encoding(tuple(scale_C.tolist()), tuple(shift_C.tolist())), backbone, heads)
