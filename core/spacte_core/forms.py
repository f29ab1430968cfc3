"""A base classifier taken apart, and its forms: ways to compute it on one device, for one batch size.

Forms of one classifier differ in arithmetic (`precision`) and in speed. The plain one is here.
"""

import copy
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

Part = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Encoding:
    """From pixels (in units of [0, 1], noise added) to a trunk's input: scale_C x + shift_C in `dtype`.

    For uint8 the result is clamped to 0..255 and rounded half up.
    """

    scale_C: tuple[float, ...]
    shift_C: tuple[float, ...]
    dtype: torch.dtype = torch.float32

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """Encode a float32 batch in channels_last order; the noise step does the same on its own tensors."""
        scale_C11, shift_C11 = (
            torch.tensor(v, device=x_BCHW.device)[:, None, None] for v in (self.scale_C, self.shift_C)
        )
        y = x_BCHW * scale_C11 + shift_C11
        y = (y + 0.5).clamp_(0, 255).to(torch.uint8) if self.dtype == torch.uint8 else y.to(self.dtype)
        return y.contiguous(memory_format=torch.channels_last)


@dataclass
class Classifier:
    """An affine encoding of pixels, a trunk that runs once, and heads that answer: heads[l](trunk(encoding(x))).

    Attributes:
        encoding: of the trunk's input, in float32.
        trunk: encoded pixels to features, one tensor whose first dimension is the batch.
        heads: features to logits [B, K].
        fitted: what kernels found out about it once, for all forms and batch sizes.
    """

    encoding: Encoding
    trunk: nn.Module
    heads: tuple[nn.Module, ...]
    fitted: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Form:
    """One way to compute a classifier.

    Attributes:
        name: for reports: `plain`, `folded`, `onednn`, `winograd`, `amx`, `chain_avx512` and its like, `int8`, `fused`,
            `compiled`, `onnxruntime`; `portable` where the same bits come out on every kind of x86 processor.
        precision: the arithmetic, part of the function that is certified.
        batch: rows of each call; every call has exactly this many.
        encoding: of the trunk's input.
        trunk: encoded batch -> features.
        heads: features -> logits [B, K], one function a head.
        fit: a digest of what was fitted to calibration rows, of int8; the version of another runtime that computes it.
        recordable: whether a CUDA graph can record it.
        any_batch: whether calls may have another number of rows, and a row's logits are the same bits then.
    """

    name: str
    precision: str
    batch: int
    encoding: Encoding
    trunk: Part
    heads: Sequence[Part]
    fit: str = ""
    recordable: bool = True
    any_batch: bool = False

    def logits(self, x_BCHW: Tensor) -> Tensor:
        """Summed head logits, float32 [B, K], of an encoded batch: the vote is their first maximum."""
        features = self.trunk(x_BCHW)
        return total([head(features) for head in self.heads])


def total(logits: Sequence[Tensor]) -> Tensor:
    """The sum of head logits in float32, head by head."""
    return reduce(operator.add, logits[1:], logits[0].float())


def plain(classifier: Classifier, batch: int, dtype: torch.dtype = torch.float32) -> Form:
    """The classifier as it is, run eagerly: in float32 it is what every other form is compared with."""
    parts = (classifier.trunk, *classifier.heads)
    trunk, *heads = parts if dtype == torch.float32 else (copy.deepcopy(part).to(dtype) for part in parts)
    precision, encoding = "fp32" if dtype == torch.float32 else "bf16", replace(classifier.encoding, dtype=dtype)
    return Form("plain", precision, batch, encoding, lambda x_BCHW: trunk(x_BCHW.contiguous()), heads)


def logits_of(form: Form, rows_NCHW: Tensor) -> Tensor:
    """Summed logits, float32 [N, K], of rows in units of [0, 1]; a short last batch is filled up with other rows."""
    whole = whole_batches(rows_NCHW, form.batch)
    logits_NK = torch.cat([form.logits(form.encoding(x_BCHW)) for x_BCHW in whole.split(form.batch)])
    return logits_NK[: len(rows_NCHW)]


def whole_batches(rows_NCHW: Tensor, batch: int) -> Tensor:
    """The rows, and as many of them once more as whole batches need."""
    count = -(-len(rows_NCHW) // batch) * batch
    return rows_NCHW[torch.arange(count, device=rows_NCHW.device) % len(rows_NCHW)]
