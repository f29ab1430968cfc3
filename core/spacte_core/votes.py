"""What a row of logits votes for."""

import torch
from torch import Tensor


def votes_of(logits_RK: Tensor) -> Tensor:
    """The vote of each row: the class with the greatest logit, the lowest of equal ones.

    A row with a logit that is NaN or infinite has no greatest one: its vote is K, which is no class. Rows may have any
    dimensions before that of the classes.
    """
    return torch.where(logits_RK.isfinite().all(-1), logits_RK.argmax(-1), logits_RK.shape[-1])
