"""What a form must show before it may vote: one fixed function, close to the float32 network.

The theorem is about one function of the noisy image. A form whose result for a row depends on the row's place in the
batch, on its neighbours or on the run is none, and is refused.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from spacte_core.forms import Classifier, Form, logits_of, plain, whole_batches
from spacte_core.votes import votes_of
from spacte_workers.load_steps import begin

EQUAL_BATCHES = 10
"""Runs of one and the same batch by the module itself. Chosen: a module that throws one fair coin a batch passes once
in 512 times."""

_CHECKED_ROWS = 8
"""Of the module itself, and no more than an eighth of those compared. Chosen: so many runs cost less than a usual
batch."""

_MODULE_ROUNDING = 2.0**-14
"""By how much a row's logits may hang on its place in the batch in plain float32, as part of what rows differ by.
Chosen: a thousand roundings; the form that votes is held to equal bits."""

_GPU_ROUNDING = 2.0**-6
"""The same for forms on GPUs, whose libraries may add up a row otherwise in another tile. Chosen: a few roundings of
bfloat16, each of which is up to 2**-9."""


@dataclass(frozen=True)
class Compared:
    """A form, its logits of the rows compared, and the share of these on which it votes as the float32 network."""

    form: Form
    logits_NK: Tensor
    agreement: float


def compare(form: Form, rows_NCHW: Tensor, votes_N: Tensor) -> Compared:
    """The form compared with the float32 network's votes for rows in units of [0, 1]."""
    logits_NK = logits_of(form, rows_NCHW)
    return Compared(form, logits_NK, (votes_of(logits_NK) == votes_N).double().mean().item())


def module_is_one_function(classifier: Classifier, rows_NCHW: Tensor) -> bool:
    """Whether the module itself is one fixed function: the same for equal batches, and not of a row's neighbours."""
    begin("checking", "checks that the network is one fixed function")
    form = plain(classifier, min(_CHECKED_ROWS, max(len(rows_NCHW) // _CHECKED_ROWS, 2), len(rows_NCHW)))
    return is_one_function(form, rows_NCHW, runs=EQUAL_BATCHES, rounding=_MODULE_ROUNDING)


def place_rounding(device: torch.device) -> float:
    """By how much the logits of forms on a device may hang on a row's place in the batch; nothing on CPUs."""
    return _GPU_ROUNDING if device.type == "cuda" else 0.0


def is_one_function(
    form: Form, rows_NCHW: Tensor, *, runs: int = 2, rounding: float | None = None, known_NK: Tensor | None = None
) -> bool:
    """Whether rows get the same logits when equal batches are run again, in another place of the batch, beside others.

    Few votes are near a tie, so that a function that depends on the run or on the neighbours a little could keep them
    all by chance: that is why logits are compared. Those of equal batches have to be equal bit for bit. The last batch
    is the first one's later rows moved to the front, and then copies of one row, as at the end of a shard.

    Args:
        form: the form to check.
        rows_NCHW: rows in units of [0, 1].
        runs: of equal batches.
        rounding: what a row's place may change, as part of what rows differ by; by default nothing on CPUs.
        known_NK: logits of the rows, from an earlier run in the order of `logits_of`, which is the first one then.
    """
    if rounding is None:
        rounding = place_rounding(rows_NCHW.device)
    batch_BCHW = whole_batches(rows_NCHW, form.batch)[: form.batch]
    if known_NK is not None and len(known_NK) >= form.batch:
        first_BK = known_NK[: form.batch]
    else:
        first_BK = form.logits(form.encoding(batch_BCHW))
    if not all(same_logits(first_BK, form.logits(form.encoding(batch_BCHW))) for _ in range(runs - 1)):
        return False
    shift = form.batch // 2 + 1 if form.batch > 2 else form.batch - 1
    moved_BCHW = batch_BCHW[torch.arange(shift, shift + form.batch).clamp(max=form.batch - 1)]
    moved_BK = form.logits(form.encoding(moved_BCHW))[: form.batch - shift]
    defined_BK = first_BK.nan_to_num(0.0, 0.0, 0.0)
    allowed = rounding * (defined_BK - defined_BK.mean(0)).abs().max().item()
    stayed_BK = first_BK[shift:]
    return torch.equal(votes_of(stayed_BK), votes_of(moved_BK)) and same_logits(stayed_BK, moved_BK, allowed)


def same_logits(a_NK: Tensor, b_NK: Tensor, allowed: float = 0.0) -> bool:
    """Whether logits are equal but for what is allowed, and undefined in the same places."""
    undefined_NK = a_NK.isnan() & b_NK.isnan()
    return bool(((a_NK == b_NK) | undefined_NK | ((a_NK - b_NK).abs() <= allowed)).all())
