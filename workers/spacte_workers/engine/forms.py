"""A classifier's forms of one precision, fastest first: those of the kernels, and the plain one."""

from collections.abc import Iterator

import torch
from torch import Tensor

from spacte_core.classifier import Classifier
from spacte_core.forms import Form, plain
from spacte_core.kernel_switch import kernels_enabled

_PLAIN_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def forms(
    classifier: Classifier, precision: str, batch: int, rows_NCHW: Tensor, *, only: str | None = None
) -> Iterator[Form]:
    """Forms of one precision, fastest first; without kernels the plain one alone.

    Args:
        classifier: on its device, in eval mode, float32.
        precision: `fp32`, `bf16` or `int8`, which needs kernels.
        batch: rows of each call.
        rows_NCHW: calibration rows, pixels in [0, 1] plus noise; int8 takes its scales from them.
        only: a form's name, if no other is wanted.
    """
    kernels = kernels_enabled()
    if kernels:
        from spacte_core.kernels import optimized_forms

        yield from optimized_forms(classifier, precision, batch, rows_NCHW, only=only)
    dtype = _PLAIN_DTYPES.get(precision)
    if only in (None, "plain") and dtype is not None and (precision == "fp32" or not kernels):
        yield plain(classifier, batch, dtype)
