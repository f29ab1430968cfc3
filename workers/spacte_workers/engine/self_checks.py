"""What a form must show before it may vote: one fixed function, close to the float32 network.

The theorem is about one function of the noisy image. A form whose result for a row depends on the row's place in the
batch, on its neighbours or on the run is none, and is refused.
"""

import torch
from torch import Tensor

from spacte_core.forms import Form, logits_of, whole_batches

from .counting import votes_of


def agreement(form: Form, rows_NCHW: Tensor, votes_N: Tensor) -> float:
    """Share of rows for which the form votes as the float32 network does."""
    return (votes_of(logits_of(form, rows_NCHW)) == votes_N).double().mean().item()


def is_one_function(form: Form, rows_NCHW: Tensor) -> bool:
    """Whether rows get the same logits, bit for bit, in a second run, in another place of the batch, and beside others.

    Few votes are near a tie, so that a function that depends on the run or on the neighbours a little could keep them
    all by chance: that is why logits are compared. The third batch is the first one's later rows moved to the front,
    and then copies of one row, as at the end of a shard.

    Args:
        form: the form to check.
        rows_NCHW: rows in units of [0, 1].
    """
    batch_BCHW = whole_batches(rows_NCHW, form.batch)[: form.batch]
    shift = form.batch // 2 + 1 if form.batch > 2 else form.batch - 1
    moved_BCHW = batch_BCHW[torch.arange(shift, shift + form.batch).clamp(max=form.batch - 1)]
    batches = (batch_BCHW, batch_BCHW, moved_BCHW)
    first_BK, again_BK, moved_BK = (form.logits(form.encoding(x_BCHW)) for x_BCHW in batches)
    return same_logits(first_BK, again_BK) and same_logits(first_BK[shift:], moved_BK[: form.batch - shift])


def same_logits(a_NK: Tensor, b_NK: Tensor) -> bool:
    """Whether logits are equal, and undefined in the same places."""
    return bool(((a_NK == b_NK) | (a_NK.isnan() & b_NK.isnan())).all())
