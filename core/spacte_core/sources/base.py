"""What every library's models have in common: the weights, and what to say where they are missing."""

import difflib
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spacte_core.checkpoint import CheckpointError
from spacte_core.importers import read_weights
from spacte_core.models import Normalization
from spacte_core.preprocessing import Preprocessing
from spacte_core.stated_transforms import TransformError

DIFFUSERS = "diffusers:"
"""The prefix of a diffusion model's name."""

HUB, RANDOM = "hub", "random"
"""Values of --weights that are no file: the published ones, over the network, and none."""


@dataclass(frozen=True)
class SourceOptions:
    """What a user says of a library's model.

    Attributes:
        weights: `hub`, `random`, or a file of weights.
        classes: how many, where the weights do not say; None: as published.
        size: height and width in pixels; None: as published.
        input_shape: (C, H, W), of what says nothing of it.
    """

    weights: str = HUB
    classes: int | None = None
    size: int | None = None
    input_shape: tuple[int, int, int] | None = None

    @property
    def file(self) -> Path | None:
        """The file of weights, if one is named."""
        return None if self.weights in (HUB, RANDOM) else Path(self.weights)


@dataclass(frozen=True)
class Source:
    """A model and what its library says of it.

    Attributes:
        module: x_BCHW, normalised -> logits, or an output that has them.
        input_shape: (C, H, W).
        normalization: of pixels in [0, 1], before the module.
        class_names: None where nobody names them.
        preprocessing: what brought pictures to `input_shape`; None where nobody says, or at another size.
    """

    module: nn.Module
    input_shape: tuple[int, int, int]
    normalization: Normalization
    class_names: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None


def no_such_model(library: str, name: str, known: Iterable[str]) -> CheckpointError:
    """The error that names those that are nearly called so."""
    near = difflib.get_close_matches(name, list(known), n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"name one that {library} has."
    return CheckpointError(f"{library} has no model {name!r}: {hint}")


def not_fetched(text: str, error: Exception) -> CheckpointError:
    """The error for weights that the hub did not give."""
    first = str(error).strip().partition("\n")[0][:200].rstrip(". ")
    return CheckpointError(
        f"The weights of {text} could not be fetched ({type(error).__name__}: {first}): name a file that has them with "
        "--weights FILE, or --weights random for none."
    )


_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..+)$")
"""Names of torchvision 0.1 with a dot that module names may not have any more; its published files keep them."""

_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "net")
"""Where training loops keep weights beside other things: timm's, torchvision's, Lightning's, PyTorch's tutorial."""


def read_state_dict(file: Path, module: nn.Module) -> dict[str, Tensor]:
    """The weights in a .safetensors or torch.save file, wherever it keeps them, by the names that a module has.

    Args:
        file: names in it may have a prefix that the module's lack, as data-parallel training and Lightning write.
        module: of this architecture; its number of classes does not matter.

    Raises:
        CheckpointError: it cannot be read, or holds anything but weights.
    """
    content = read_weights(file)
    for key in _KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{file} holds no state dict: save module.state_dict() and name that file.")
    state = {str(key): value for key, value in content.items()}
    names = set(module.state_dict())
    renamed = {_OLD_DENSENET.sub(r"\1\2", key): value for key, value in state.items()}
    found = next(filter(None, (_below_prefix(each, names) for each in (state, renamed))), ("", state))
    return _versioned(*found, getattr(content, "_metadata", None))


def _below_prefix(state: dict[str, Tensor], names: set[str]) -> tuple[str, dict[str, Tensor]] | None:
    """The one prefix below which are just the module's names, and the weights without it; None: there is none."""
    wanted = {name for name in names if not name.endswith("num_batches_tracked")}  # not there in old files
    if wanted <= set(state):
        return "", state
    one = min(wanted)
    prefixes = {key.removesuffix(one) for key in state if key.endswith(f".{one}")}
    below = [(p, {key.removeprefix(p): value for key, value in state.items() if key.startswith(p)}) for p in prefixes]
    fitting = [found for found in below if wanted <= set(found[1]) <= names]
    return fitting[0] if len(fitting) == 1 else None


def _versioned(prefix: str, state: dict[str, Tensor], metadata: Mapping[str, Any] | None) -> dict[str, Tensor]:
    """The weights with the versions of the layers that wrote them, by which some layers read old ones."""
    found: Any = OrderedDict(state)
    if metadata is not None:
        below = {f"{key}.".removeprefix(prefix).removesuffix("."): version for key, version in metadata.items()}
        found._metadata = below  # noqa: SLF001  where load_state_dict looks
    return found


def classes_in(state: dict[str, Tensor], module: nn.Module) -> int:
    """How many classes weights were trained for: the rows of the last parameter, which is the classifier's.

    Raises:
        CheckpointError: the weights do not have it.
    """
    last = [key for key, _ in module.named_parameters()][-1]
    if last not in state or not state[last].dim():
        other = f" (but {next(reversed(state))}, say)" if state else ""
        raise CheckpointError(f"The file has no weight {last!r}{other}: choose the model that it was saved from.")
    return len(state[last])


def load_weights(module: nn.Module, state: dict[str, Tensor], file: Path) -> None:
    """Put weights into a module.

    Raises:
        CheckpointError: weights are missing, too many, or of other shapes.
    """
    for name, value in module.state_dict().items():  # not written before PyTorch 0.4.1, and of no effect in eval mode
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, torch.zeros_like(value))
    try:
        module.load_state_dict(state)
    except (RuntimeError, ValueError) as error:  # a layer may refuse a version of its own
        first = str(error).splitlines()[1:2] or [str(error)]
        raise CheckpointError(
            f"The weights of {file} do not fit the model ({first[0].strip()[:200].rstrip('.')}): name the model that "
            "they were saved from."
        ) from error


def normalization_of(mean: Any, sd: Any) -> Normalization:
    """Of channel means and standard deviations."""
    return Normalization(kind="standard", mean=tuple(map(float, mean)), sd=tuple(map(float, sd)))


def imagenet_names() -> tuple[str, ...]:
    """The 1,000 classes of ImageNet as torchvision names them, each otherwise; timm calls two of them "crane"."""
    from torchvision.models import ResNet18_Weights  # it takes a second to import

    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])


def stated(read: Callable[[Mapping[str, Any], tuple[int, int]], Preprocessing | None], said: Any, size: int) -> Any:
    """What a library's settings state about pictures of this size.

    Raises:
        TransformError: they state what is not done here.
    """
    try:
        return read(said, (size, size))
    except (ValueError, TypeError, KeyError) as error:
        raise TransformError(f"The model states transforms that are not done here ({error}): give --size.") from error
