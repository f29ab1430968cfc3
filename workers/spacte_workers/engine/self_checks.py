"""What a form must show before it may vote: one fixed function, close to the float32 network.

The theorem is about one function of the noisy image. A form whose result for a row depends on the row's place in the
batch, on its neighbours or on the run is none, and is refused.
"""

import torch
from torch import Tensor

from spacte_core.forms import Form, logits_of, whole_batches

ROUNDING = 2.0**-6
"""By how much a row's logits may differ between batches, as part of what rows differ by. Chosen: a few roundings of
bf16, each of which is up to 2**-9."""


def agreement(form: Form, rows_NCHW: Tensor, votes_N: Tensor) -> float:
    """Share of rows for which the form votes as the float32 network does."""
    return (logits_of(form, rows_NCHW).argmax(1) == votes_N).double().mean().item()


def is_one_function(form: Form, rows_NCHW: Tensor) -> bool:
    """Whether rows get the same votes in a second run, in another place of the batch, and beside other rows.

    Few votes are near a tie, so that a function that depends on the neighbours a little could keep them all by chance:
    the logits have to stay, too, up to rounding. The third batch is the first one's later rows moved to the front, and
    then copies of one row, as at the end of a shard.

    Args:
        form: the form to check.
        rows_NCHW: rows in units of [0, 1].
    """
    batch_BCHW = whole_batches(rows_NCHW, form.batch)[: form.batch]
    shift = form.batch // 2 + 1 if form.batch > 2 else form.batch - 1
    moved_BCHW = batch_BCHW[torch.arange(shift, shift + form.batch).clamp(max=form.batch - 1)]
    batches = (batch_BCHW, batch_BCHW, moved_BCHW)
    first_BK, again_BK, moved_BK = (form.logits(form.encoding(x_BCHW)) for x_BCHW in batches)
    allowed = ROUNDING * (first_BK - first_BK.mean(0)).abs().max()

    def same(a_NK: Tensor, b_NK: Tensor) -> bool:
        return torch.equal(a_NK.argmax(1), b_NK.argmax(1)) and bool((a_NK - b_NK).abs().max() <= allowed)

    return same(first_BK, again_BK) and same(first_BK[shift:], moved_BK[: form.batch - shift])
