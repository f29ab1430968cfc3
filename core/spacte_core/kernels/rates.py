"""How fast the forms of each precision are on each kind of processor: what `auto` ranks precisions by.

A table of measurements and not a timing at load, so that a server which is started again on a busy machine chooses as
it did before.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from spacte_core.forms import Classifier, plain
from spacte_core.hardware import has_bf16
from spacte_core.kernel_switch import kernels_enabled

from .cpu.targets import DTYPES, TARGETS, forced, runs, target_for
from .cpu.winograd_layers import library, takes_layer
from .inference import folded_graphs

RATES: dict[str, dict[str, dict[str, float]]] = {
    # Intel Xeon with AMX, 2 threads: `spacte bench engine` for ResNet-20 and -110 in benchmarks/results/engine_cpu.md.
    "amx": {
        "fp32": {"winograd": 2.1, "onednn": 1.0},
        "bf16": {"amx": 5.0, "onednn": 2.3},
        "int8": {"amx": 8.5, "int8": 2.8},
    },
    # AMD EPYC (Zen 5), CPU seconds of one thread, G multiply-adds/s for ResNet-20 and -110: oneDNN 104 in float32;
    # Winograd's own layers 240 and 282; chains 229 and 238 in bf16, 489 and 559 in int8; oneDNN 195 and 315.
    "avx512": {
        "fp32": {"winograd": 2.5, "onednn": 1.0},
        "bf16": {"chain_avx512": 2.2, "onednn": 1.9},
        "int8": {"chain_avx512": 4.9, "int8": 3.1},
    },
    # The same with the target forced by `SPACTE_CPU`: 370 in int8.
    "avx512bw": {"fp32": {"winograd": 2.5, "onednn": 1.0}, "int8": {"chain_avx512bw": 3.6}},
    # The same, oneDNN and PyTorch held to AVX2 as well: float32 127 (the published loop 41), int8 278 and 221.
    "avx_vnni": {"fp32": {"winograd": 2.5, "onednn": 1.0}, "int8": {"chain_avx_vnni": 4.9}},
    "avx2": {"fp32": {"winograd": 2.5, "onednn": 1.0}, "int8": {"chain_avx2": 3.9}},
}
"""By the best target that a processor has, precision and form: multiply-adds a second, those of oneDNN's float32
convolutions being 1. Those of `winograd` are of the narrow layers that it takes in chains; wide ones, one by one,
have 1.8 to 2.6 on an AMD EPYC (Zen 3, AVX2). What is not here was not measured."""


def cpu_rate(precision: str, winograd_share: float) -> float:
    """The rate of the best form of a precision that this machine's CPU can compute; 0 where none is known.

    Args:
        precision: `fp32`, `bf16` or `int8`.
        winograd_share: of the classifier's multiply-adds, those that Winograd's kernels can save on.
    """
    kind = forced() or next((target.name for target in TARGETS if runs(target)), "")
    rates = RATES.get(kind, {}).get(precision, {})
    there = {form: rate for form, rate in rates.items() if _can_be_made(form, precision)}
    if precision == "bf16" and not has_bf16(torch.device("cpu")):
        return 0.0
    if "winograd" in there:
        return 1 / (winograd_share / there["winograd"] + (1 - winograd_share) / rates["onednn"])
    return max(there.values(), default=0.0)


def winograd_share(classifier: Classifier, rows_NCHW: Tensor) -> float:
    """The share of a classifier's multiply-adds that lies in convolutions which Winograd's kernels take.

    Args:
        classifier: on the CPU.
        rows_NCHW: a few rows, pixels in [0, 1] plus noise.
    """
    taken = total = 0

    def count(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal taken, total
        if isinstance(layer, nn.Conv2d):
            work = output[0].numel() * layer.weight[0].numel()
            total += work
            taken += work if takes_layer(layer, output.shape) else 0
        elif isinstance(layer, nn.Linear):
            total += layer.weight.numel()

    parts = folded_graphs(classifier)  # exported programs have no layers but there
    if parts:
        classifier = replace(classifier, trunk=parts[0], heads=tuple(parts[1:]))
    modules = [module for part in (classifier.trunk, *classifier.heads) for module in part.modules()]
    hooks = [module.register_forward_hook(count) for module in dict.fromkeys(modules)]
    plain(classifier, len(rows_NCHW)).logits(rows_NCHW)
    for hook in hooks:
        hook.remove()
    return taken / total if total else 0.0


def _can_be_made(form: str, precision: str) -> bool:
    if form == "winograd":
        return kernels_enabled("winograd") and (library() is not None or target_for(torch.float32) is not None)
    if form in ("onednn", "int8"):
        return kernels_enabled(form)
    switched_on = kernels_enabled("chain") and (form != "amx" or kernels_enabled("amx"))
    switched_on = switched_on and (precision != "int8" or kernels_enabled("int8"))
    return switched_on and target_for(DTYPES[precision], form) is not None
