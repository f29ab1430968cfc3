"""`save_model`: a checkpoint folder, which can be served, from any module."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from spacte_core.models import Normalization
    from spacte_core.preprocessing import Preprocessing


def save_model(
    module: "nn.Module",
    folder: Path | str,
    *,
    sigma: float,
    input_shape: Sequence[int],
    class_names: Sequence[str] | None = None,
    preprocessing: "Preprocessing | None" = None,
    normalization: "Normalization | None" = None,
) -> str:
    """Write any classifier as a checkpoint folder, replacing one that is there, and return its version.

    The module is stored as a `torch.export` program for batches of any size, so that its code is not needed again.

    Args:
        module: maps float32 [B, C, H, W] (pixels in [0, 1] plus noise) to logits [B, K], to a list of L such tensors
            whose sum decides, or to a dict or an object that has either as "logits". A copy is put in eval mode.
        folder: made if missing; its name is the model's.
        sigma: noise sd it was trained at, in units of [0, 1] pixels; certificates are drawn at it.
        input_shape: (C, H, W).
        class_names: one a class; None numbers them.
        preprocessing: what brought pictures to the input when it was trained, for those who ask to resize theirs.
        normalization: mean and sd of [0, 1] pixels, taken off before the module; None where it does that itself.

    Raises:
        CheckpointError: the module cannot be exported or returns something else; one sentence that says what to do.
    """
    from spacte_core.checkpoint import CheckpointError, save_checkpoint
    from spacte_core.programs import described, program_network

    if len(input_shape) != 3:
        raise CheckpointError(f"input_shape is {list(input_shape)}: give (channels, height, width).")
    net, model = program_network(module, input_shape, normalization)
    method = type(module).__name__
    config = described(model, sigma=sigma, method=method, class_names=class_names, preprocessing=preprocessing)
    return save_checkpoint(folder, net, config)
