"""The votes of the float32 network, which all forms are compared with: one pass over the rows for each load.

The network itself is slow on CPUs, and Winograd's kernels compute it within a few roundings. So these vote where they
are shown to: their logits of some rows are the network's own but for roundings, and where a row's two largest are near
each other, the network itself decides.
"""

from dataclasses import replace

from torch import Tensor

from spacte_core.forms import Classifier, Form, logits_of, plain
from spacte_core.votes import votes_of

from .calibration import Calibration
from .forms import forms

_FORM, _BATCH = "winograd", 16  # rows of a batch that is made, where a row's logits hang on it. Chosen: tried on few
_OWN_ROWS = 8  # that the network computes itself. Chosen: a module that was traced wrongly shows on each
_ROUNDING = 2.0**-12
"""By how much logits may differ, as part of what rows differ by. Chosen: hundreds of roundings, which a hundred layers
amplify."""

_CLEAR = 8  # How many times that a vote has to be ahead. Chosen: both logits may be off, and other rows a little more


def float32_votes(classifier: Classifier, batch: int, rows: Calibration) -> Tensor:
    """The float32 network's votes of the rows compared.

    Args:
        classifier: on its device.
        batch: rows of a batch where a row's logits do not hang on it, since chains take up to sixteen rows to a thread
            and small batches leave threads without work; and of the network itself, where it has to vote on all rows.
        rows: calibration rows.
    """
    rows_NCHW = rows.compared
    slow = rows_NCHW.device.type == "cpu" and len(rows_NCHW) > _OWN_ROWS
    fast = None if not slow else next(forms(classifier, "fp32", _BATCH, rows.fitted, only=_FORM), None)
    if fast is not None and fast.any_batch:
        fast = replace(fast, batch=min(batch, len(rows_NCHW)))
    votes_N = None if fast is None else _votes_by(fast, plain(classifier, _OWN_ROWS), rows_NCHW)
    return votes_of(logits_of(plain(classifier, batch), rows_NCHW)) if votes_N is None else votes_N


def _votes_by(form: Form, network: Form, rows_NCHW: Tensor) -> Tensor | None:
    """The network's votes by another form, as far as that goes; None where the two differ by more than roundings."""
    own_NK, logits_NK = logits_of(network, rows_NCHW[:_OWN_ROWS]), logits_of(form, rows_NCHW)
    allowed = _ROUNDING * (own_NK - own_NK.mean(0)).abs().max()
    if own_NK.shape[1] == 1 or not ((logits_NK[: len(own_NK)] - own_NK).abs() <= allowed).all():
        return None
    votes_N = votes_of(logits_NK)
    first_N, second_N = logits_NK.topk(2).values.unbind(1)
    doubtful_N = ~(first_N - second_N > _CLEAR * allowed)
    if doubtful_N.any():
        votes_N[doubtful_N] = votes_of(logits_of(network, rows_NCHW[doubtful_N]))
    return votes_N
