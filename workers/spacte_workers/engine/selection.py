"""Which form, precision and batch size: decided when a classifier is loaded, then fixed.

What is part of the function that votes must not depend on how busy the machine was at that time: a server that is
restarted has to count as it did before. So `auto` ranks precisions by a table of their measured rates on this kind of
machine, and not by timing the classifier; and another batch size, which is chosen by timing, has to give the very same
logits.
"""

import math
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from spacte_client.types import Precision
from spacte_core.forms import Classifier, Form, logits_of, plain, whole_batches
from spacte_core.hardware import NO_BF16, computes_bf16, has_bf16
from spacte_core.kernel_switch import kernels_enabled
from spacte_workers.load_steps import begin

from .calibration import Calibration
from .errors import EngineError, NoSuchKernelsError
from .float32_votes import float32_votes
from .forms import forms
from .kernel_names import PORTABLE
from .peak_rates import synchronize
from .self_checks import Compared, compare, is_one_function, same_logits

WantedPrecision = Precision | Literal["auto"]
Shares = tuple[float, float]
"""Of a classifier's multiply-adds, those that Winograd's float32 kernels take in narrow and in wide layers."""

_VALUES_IN_FLIGHT = {"cpu": 1 << 21, "cuda": 1 << 28}
"""Values of the widest layer that a batch should have. Chosen: 8 MB of float32 on CPUs, which stay near the cache, and
1 GB on GPUs."""

_BATCHES = {"cpu": (8, 2048), "cuda": (64, 8192)}
"""Smallest and largest batch. Chosen: 8,192 is what benchmarks/results/gpu.md measured."""

_QUICK_SECONDS = 0.1  # A batch that takes longer is not tried in other sizes. Chosen: loading must not take minutes
_GAIN = 1.1
"""Another precision or batch size must be faster by that much to be used. Chosen: above the noise of the timing."""

_BF16_RATE = 2.0
"""Of bf16 where there are units for it and no kernels, float32's being 1: GPUs multiply at least twice as fast by them,
AMD's CPUs with AVX-512 BF16 1.8 times (benchmarks/results/engine_cpu.md)."""

_SMALL = 8  # A large batch's rows over those of a small one. Chosen: looks at few samples cost an eighth
NOT_ONE_FUNCTION = (
    "The module's logits change from run to run or with the rest of the batch: switch off dropout, batch statistics "
    "and counters in eval mode, so that it is one fixed function."
)


@dataclass(frozen=True)
class SelectedForm:
    """What was chosen, and how well it votes.

    Attributes:
        form: the form that votes.
        small: the same function for small batches, if that is faster.
        vote_agreement: share of calibration rows on which it votes as the float32 network does.
    """

    form: Form
    small: Form | None
    vote_agreement: float


def select_form(
    classifier: Classifier,
    rows: Calibration,
    *,
    precision: WantedPrecision,
    batch: int | None,
    allow_int8: bool,
    min_agreement: float,
    form_name: str | None = None,
) -> SelectedForm:
    """Choose the form that is to vote.

    Args:
        classifier: on its device; the module itself is one fixed function.
        rows: calibration rows of the model.
        precision: one of the three, or `auto` for the first that agrees with float32, the fastest tried first.
        batch: rows of a batch, or None for the fastest of a few sizes.
        allow_int8: whether `auto` may try int8.
        min_agreement: smallest share of calibration rows with float32's vote.
        form_name: the form, if no other will do.

    Raises:
        EngineError: the precision asked for does not fit the module or the machine.
        NoSuchKernelsError: the form asked for does not.
    """
    if form_name is None:
        require_precision(precision, rows.compared.device)
    begin("kernels", "computes in float32 what kernels are compared with")
    size = batch or default_batch(classifier, rows.compared[:2])
    votes_N = float32_votes(classifier, size, rows)
    tried: dict[str, float] = {}
    if form_name == PORTABLE:
        names = ["int8"] if precision in ("auto", "int8") else []
    else:
        names = [precision] if precision != "auto" else _candidates(classifier, rows.compared, allow_int8)
    for name in names:
        begin("kernels", f"tries kernels in {name}")
        candidates = forms(classifier, name, size, rows.fitted, only=form_name)
        found = _best_form(candidates, rows.compared, votes_N, min_agreement)
        if found is None:
            continue
        tried[name] = found.agreement
        if found.agreement >= min_agreement:
            break
    else:
        if not tried and not is_one_function(plain(classifier, size), rows.compared):
            raise EngineError(NOT_ONE_FUNCTION)
        if not tried and form_name is not None:
            raise NoSuchKernelsError(form_name)
        raise EngineError(_refusal(precision, tried, min_agreement))
    form, rate = found.form, rows_per_second(found.form, rows.compared)
    if batch is None:
        form, rate = _faster_batch(classifier, form, rate, rows, found.logits_NK)
    return SelectedForm(form, _small_form(classifier, form, rate, rows, found.logits_NK), found.agreement)


def not_computed(precision: WantedPrecision, device: torch.device) -> str | None:
    """Why no classifier is computed in a precision on such a device here; None where it can be."""
    if precision == "bf16" and not computes_bf16(device):
        return NO_BF16
    if precision == "int8" and device.type != "cpu":
        return "int8 is computed on CPUs alone"
    if precision == "int8" and not kernels_enabled("int8"):
        return "int8 is computed by kernels that are switched off here"
    return None


def require_precision(precision: WantedPrecision, device: torch.device) -> None:
    """See that classifiers are computed in a precision on such a device here.

    Raises:
        EngineError: none is.
    """
    reason = not_computed(precision, device)
    if reason is not None:
        raise EngineError(f"{reason}: use precision 'auto' or 'fp32'.")


def candidate_precisions(device: torch.device, allow_int8: bool, shares: Shares = (1.0, 0.0)) -> list[Precision]:
    """Precisions worth trying, the fastest first: those that are clearly faster than float32 here, and float32.

    Args:
        device: where they would run.
        allow_int8: whether int8 may be tried.
        shares: of the classifier's multiply-adds, those that Winograd's kernels take in narrow and in wide layers.
    """
    lower: list[Precision] = ["int8", "bf16"] if allow_int8 and device.type == "cpu" else ["bf16"]
    names: list[Precision] = [*lower, "fp32"]
    rates = {name: precision_rate(name, device, shares) for name in names}
    faster: list[Precision] = [name for name in lower if rates[name] > _GAIN * rates["fp32"]]
    return [*sorted(faster, key=lambda name: -rates[name]), "fp32"]


def precision_rate(precision: Precision, device: torch.device, shares: Shares) -> float:
    """How fast a precision is on this kind of device, to be compared with another's; 0 where that is not known."""
    if device.type == "cpu" and kernels_enabled():
        from spacte_core.kernels.rates import WinogradShares, cpu_rate

        return cpu_rate(precision, WinogradShares(*shares))
    return {"fp32": 1.0, "bf16": _BF16_RATE if has_bf16(device) else 0.0}.get(precision, 0.0)


def default_batch(classifier: Classifier, rows_NCHW: Tensor) -> int:
    """The batch size, a power of two, at which the widest layer has the values that are best on such devices."""
    widest = rows_NCHW[0].numel()

    def look(_module: object, _inputs: object, output: object) -> None:
        nonlocal widest
        if isinstance(output, Tensor):
            widest = max(widest, output.numel() // len(rows_NCHW))

    parts = (classifier.trunk, *classifier.heads)
    hooks = [module.register_forward_hook(look) for part in parts for module in part.modules()]
    plain(classifier, len(rows_NCHW)).logits(rows_NCHW)
    for hook in hooks:
        hook.remove()
    least, most = _BATCHES[rows_NCHW.device.type]
    rows = _VALUES_IN_FLIGHT[rows_NCHW.device.type] // widest
    return min(max(1 << max(rows, 1).bit_length() - 1, least), most)


def rows_per_second(form: Form, rows_NCHW: Tensor, seconds: float = 0.2) -> float:
    """Median rate of the form on full batches; it has run before."""
    x_BCHW = form.encoding(whole_batches(rows_NCHW, form.batch)[: form.batch])
    times: list[float] = []
    while len(times) < 2 or (sum(times) < seconds and len(times) < 20):
        synchronize(x_BCHW.device)
        started = time.perf_counter()
        form.logits(x_BCHW)
        synchronize(x_BCHW.device)
        times.append(time.perf_counter() - started)
    return form.batch / statistics.median(times)


def _candidates(classifier: Classifier, rows_NCHW: Tensor, allow_int8: bool) -> list[Precision]:
    """The precisions that `auto` tries for this classifier, in this order."""
    shares: Shares = (1.0, 0.0)
    if rows_NCHW.device.type == "cpu" and kernels_enabled():
        from spacte_core.kernels.rates import winograd_shares

        shares = winograd_shares(classifier, rows_NCHW[:2])
    return candidate_precisions(rows_NCHW.device, allow_int8, shares)


def _best_form(candidates: Iterable[Form], rows_NCHW: Tensor, votes_N: Tensor, min_agreement: float) -> Compared | None:
    """The first form that is one function and agrees with float32; else the last that is one."""
    found: Compared | None = None
    for form in candidates:
        compared = compare(form, rows_NCHW, votes_N)
        if is_one_function(form, rows_NCHW, known_NK=compared.logits_NK):
            found = compared
            if found.agreement >= min_agreement:
                break
    return found


def _faster_batch(
    classifier: Classifier, form: Form, rate: float, rows: Calibration, logits_NK: Tensor
) -> tuple[Form, float]:
    """The same form at half or twice the batch size, where that is clearly faster than its rate; and the rate then."""
    least, most = _BATCHES[rows.compared.device.type]
    best, best_rate = form, rate
    for size in (form.batch // 2, form.batch * 2):
        if not least <= size <= most or form.batch / rate > _QUICK_SECONDS:
            continue
        begin("kernels", f"tries batches of {size} rows")
        other = _equal_form(classifier, form, size, rows, logits_NK)
        if other is not None and (other_rate := rows_per_second(other, rows.compared)) > _GAIN * best_rate:
            best, best_rate = other, other_rate
    return best, best_rate


def _small_form(classifier: Classifier, form: Form, rate: float, rows: Calibration, logits_NK: Tensor) -> Form | None:
    """The same form for small batches, if it takes less than half of a large one's time."""
    size = form.batch // _SMALL
    begin("kernels", f"tries batches of {size} rows")
    return _equal_form(classifier, form, size, rows, logits_NK, form.batch / rate / 2) if size else None


def _equal_form(
    classifier: Classifier, form: Form, batch: int, rows: Calibration, logits_NK: Tensor, seconds: float = math.inf
) -> Form | None:
    """The same form for another batch size; None unless it gives the same logits of `compared`, bit for bit.

    Nor is there one where a batch takes as many seconds as stated.

    A batch of the rows is enough where the kernels are the same, and known to take each row by itself.
    """
    if form.any_batch:
        others, rows_NCHW = [replace(form, batch=batch)], rows.compared[: form.batch]
    else:
        others, rows_NCHW = forms(classifier, form.precision, batch, rows.fitted, only=form.name), rows.compared
    for other in others:
        if (
            math.isfinite(seconds) and batch / rows_per_second(other, rows_NCHW) >= seconds
        ):  # first, so that a slow one computes few rows
            continue
        made_NK = logits_of(other, rows_NCHW)
        same = same_logits(made_NK, logits_NK[: len(rows_NCHW)])
        if same and is_one_function(other, rows_NCHW, known_NK=made_NK):
            return other
    return None


def _refusal(precision: str, tried: dict[str, float], min_agreement: float) -> str:
    if precision not in tried:
        return f"{precision} cannot be computed for this classifier on this machine: use precision='fp32'."
    return (
        f"{precision} votes as float32 on {tried[precision]:.1%} of noisy rows only, less than "
        f"{min_agreement:.0%}: use precision='auto' or 'fp32'."
    )
