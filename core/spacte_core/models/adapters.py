"""Other ways to return logits than a tensor or a list of them."""

from collections.abc import Mapping
from typing import Any, TypeGuard

from torch import Tensor, nn

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
