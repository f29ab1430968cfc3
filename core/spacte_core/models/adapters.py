"""Modules of others: a copy that nothing changes, and other ways to return logits than a tensor or a list of them."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from spacte_core.errors import reason

WHAT_TO_RETURN = "return the logits tensor, e.g. output.logits"


class LogitsOf(nn.Module):
    """A classifier whose logits come in a dict, under "logits", or in an object, as its `logits`.

    Models of `transformers` return such objects.

    Attributes:
        module: x_BCHW -> a dict with "logits", an object with `.logits`, or the logits themselves.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x_BCHW: Tensor) -> Tensor | list[Tensor]:
        """Logits [B, K], or a list of them, one a head.

        Raises:
            TypeError: there are none.
        """
        output = self.module(x_BCHW)
        return output if is_logits(output) else logits_in(output)


def frozen_copy(module: object) -> nn.Module:
    """A copy of a module in eval mode, whose weights take no gradient.

    Raises:
        TypeError: it is none, has no weights yet, or cannot be copied; the sentence says what to do.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"A {type(module).__name__} is no torch.nn.Module: make one, with its weights, and pass that.")
    weights = [*module.parameters(), *module.buffers()]
    if any(map(is_lazy, weights)):
        raise TypeError("The module has lazy layers without weights: run it on one batch, or load its weights, first.")
    if any(weight.is_meta for weight in weights):
        raise TypeError("The module's weights are on the meta device, without values: load them first.")
    # Old hooks, such as weight_norm's, keep what they computed with a gradient, which torch does not copy.
    kept = [value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor)]
    memo: dict[int, Any] = {id(value): value.detach().clone() for value in kept if value.grad_fn is not None}
    try:
        copied = copy.deepcopy(module, memo)
    except Exception as error:  # what a module holds fails in any way it likes
        raise TypeError(
            f"The module cannot be copied ({reason(error)}): keep locks, open files and the like out of it."
        ) from error
    return copied.eval().requires_grad_(requires_grad=False)


def fails(x_BCHW: Tensor, error: Exception) -> str:
    """The sentence for what a module's own code raised on a batch."""
    if isinstance(error, TypeError) and WHAT_TO_RETURN in str(error):
        return str(error)
    return (
        f"The module fails on a batch of shape {list(x_BCHW.shape)} ({reason(error)}): correct input_shape or the "
        "module."
    )


def unusual(logits: Sequence[Tensor]) -> str:
    """The sentence for logits that are no plain numbers, among which none may be the greatest; empty: they are."""
    for z in logits:
        if z.layout != torch.strided or z.is_complex() or z.dtype == torch.bool:
            kind = str(z.layout if z.layout != torch.strided else z.dtype).removeprefix("torch.")
            return f"The module gives logits of type {kind}: return dense floating-point numbers."
    return ""


def is_logits(output: object) -> TypeGuard[Tensor | list[Tensor]]:
    """Whether a module's output is a tensor, or a list of tensors, one a head.

    A tuple of several is none: `(logits, auxiliary logits)` would be taken for two heads, whose sum decides.
    """
    heads = output if isinstance(output, list) or (type(output) is tuple and len(output) == 1) else [output]
    return len(heads) > 0 and all(isinstance(z, Tensor) for z in heads)


def named(output: object) -> str:
    """What an output is, in words: its kind, and the names or the number of its parts."""
    kind = type(output).__name__
    if type(output) is tuple:
        return f"{kind} of {len(output)} (several heads are a list)"
    names = list(output) if isinstance(output, Mapping) else list(getattr(output, "__dict__", ()))
    return f"{kind} ({', '.join(map(str, names))[:80]})" if names else kind


def logits_in(output: Any) -> Tensor | list[Tensor]:
    """What a dict has under "logits", or an object as its `logits`.

    Raises:
        TypeError: neither; the sentence says what to return.
    """
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if not is_logits(found):
        raise TypeError(f"The module returns no logits, but a {named(output)}: {WHAT_TO_RETURN}.")
    return found
