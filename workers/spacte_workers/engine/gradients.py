"""The gradient that an attack on the smoothed classifier climbs. Suffixes as in `counting.py`."""

import torch
from torch import Tensor, nn

from spacte_core.votes import votes_of
from spacte_workers.shards import Votes

from .counting import ShardRows
from .errors import EngineError
from .noise_step import NoiseStep


def probability_gradient(
    module: nn.Module, step: NoiseStep, rows: ShardRows, label: int, batch: int, num_classes: int
) -> Votes:
    """Votes, and the gradient of the class's softmax probability, summed over the rows, with respect to the image.

    SmoothAdv's soft smoothed classifier (Salman et al. 2019, section 2.2), differentiated at fixed noises.

    Args:
        module: pixels in [0, 1] plus noise, [B, C, H, W] -> logits [B, K] or a list of them, whose sum decides.
        step: adds noise to one image, without an encoding.
        rows: of one shard.
        label: the class.
        batch: rows of a pass forward and back.
        num_classes: K.

    Raises:
        EngineError: the module has no gradient.
    """
    gradient_CHW = torch.zeros(step.channels, step.height, step.width, device=step.device)
    counts = torch.zeros(num_classes + 1, dtype=torch.int64, device=step.device)
    for rows_B5, shard_B in zip(rows.rows_N5.split(batch), rows.shard_N.split(batch), strict=True):
        x_BCHW = step.add_noise(rows.pixels_SP, shard_B, rows_B5).contiguous().requires_grad_()
        try:
            with torch.enable_grad():
                logits_BK = _summed(module(x_BCHW))
                probability = logits_BK.float().softmax(1)[:, label].sum()
                (gradient_BCHW,) = torch.autograd.grad(probability, x_BCHW)
        except RuntimeError as error:
            raise EngineError(f"The model cannot be attacked, because it has no gradient: {error}") from error
        gradient_CHW += gradient_BCHW.sum(0)
        counts += votes_of(logits_BK.detach()).bincount(minlength=num_classes + 1)
    *votes, invalid = counts.tolist()
    return Votes(tuple(votes), 0.0, invalid, gradient_CHW=gradient_CHW.cpu().numpy())


def _summed(logits: Tensor | list[Tensor]) -> Tensor:
    return logits if isinstance(logits, Tensor) else torch.stack(list(logits)).sum(0)
