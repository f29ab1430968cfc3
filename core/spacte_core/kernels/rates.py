"""How fast the forms of each precision are on each kind of processor: what `auto` ranks precisions by.

A table of measurements and not a timing at load, so that a server which is started again on a busy machine chooses as
it did before.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spacte_core.forms import Classifier, plain
from spacte_core.hardware import has_bf16
from spacte_core.kernel_switch import kernels_enabled

from .cpu.chain import MOST_FILTERS_IN_FLOAT32
from .cpu.targets import DTYPES, TARGETS, forced, runs, target_for
from .cpu.winograd_layers import library, takes_layer
from .inference import folded_graphs

RATES: dict[str, dict[str, dict[str, tuple[float, float]]]] = {
    # Intel Xeon with AMX, 2 threads: `spacte bench engine` for ResNet-20 and -110 in benchmarks/results/engine_cpu.md.
    "amx": {
        "fp32": {"winograd": (2.1, 1.9), "onednn": (1.0, 1.0)},
        "bf16": {"amx": (5.0, 5.0), "onednn": (2.3, 2.3)},
        "int8": {"amx": (8.5, 8.5), "int8": (2.8, 2.8)},
    },
    # AMD EPYC (Zen 4), CPU seconds of one thread: ResNet-20 and -110, and the wide CIFAR network.
    "avx512": {
        "fp32": {"winograd": (2.3, 1.9), "onednn": (1.0, 1.0)},
        "bf16": {"chain_avx512": (2.7, 2.0), "onednn": (1.9, 1.9)},
        "int8": {"chain_avx512": (5.0, 4.9), "int8": (3.1, 3.1)},
    },
    # AMD EPYC (Zen 5) with the target forced by `SPACTE_CPU`: 370 G multiply-adds/s in int8, oneDNN 104 in float32.
    "avx512bw": {"fp32": {"winograd": (2.3, 1.9), "onednn": (1.0, 1.0)}, "int8": {"chain_avx512bw": (3.6, 3.6)}},
    # The same, oneDNN and PyTorch held to AVX2 as well: float32 127 (the published loop 41), int8 278 and 221.
    "avx_vnni": {"fp32": {"winograd": (2.5, 1.9), "onednn": (1.0, 1.0)}, "int8": {"chain_avx_vnni": (4.9, 4.9)}},
    "avx2": {"fp32": {"winograd": (2.5, 1.9), "onednn": (1.0, 1.0)}, "int8": {"chain_avx2": (3.9, 3.9)}},
}
"""By the best target that a processor has, precision and form: multiply-adds a second, those of oneDNN's float32
convolutions being 1, of narrow layers and of the others. What is not here was not measured."""


class WinogradShares(NamedTuple):
    """Of a classifier's multiply-adds, those in convolutions that Winograd's float32 kernels take.

    Attributes:
        narrow: by chains of narrow layers.
        wide: layer by layer.
    """

    narrow: float
    wide: float


def cpu_rate(precision: str, shares: WinogradShares) -> float:
    """The rate of the best form of a precision that this machine's CPU can compute; 0 where none is known.

    Args:
        precision: `fp32`, `bf16` or `int8`.
        shares: of the classifier's multiply-adds.
    """
    kind = forced() or next((target.name for target in TARGETS if runs(target)), "")
    rates = RATES.get(kind, {}).get(precision, {})
    if precision == "bf16" and not has_bf16(torch.device("cpu")):
        return 0.0
    found = 0.0
    for form, (narrow, wide) in rates.items():
        if _can_be_made(form, precision):
            rest = rates["onednn"][1] if form == "winograd" else wide
            seconds = shares.narrow / narrow + shares.wide / wide + (1 - sum(shares)) / rest
            found = max(found, 1 / seconds)
    return found


def winograd_shares(classifier: Classifier, rows_NCHW: Tensor) -> WinogradShares:
    """The shares of a classifier's multiply-adds that Winograd's kernels take.

    Args:
        classifier: on the CPU.
        rows_NCHW: a few rows, pixels in [0, 1] plus noise.
    """
    narrow = wide = total = 0

    def count(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal narrow, wide, total
        if isinstance(layer, nn.Conv2d):
            work = output[0].numel() * layer.weight[0].numel()
            total += work
            if takes_layer(layer, output.shape):
                in_chains = layer.in_channels * layer.out_channels <= MOST_FILTERS_IN_FLOAT32
                narrow, wide = (narrow + work, wide) if in_chains else (narrow, wide + work)
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
    return WinogradShares(narrow / total, wide / total) if total else WinogradShares(0.0, 0.0)


def _can_be_made(form: str, precision: str) -> bool:
    if form == "winograd":
        return kernels_enabled("winograd") and (library() is not None or target_for(torch.float32) is not None)
    if form in ("onednn", "int8"):
        return kernels_enabled(form)
    switched_on = kernels_enabled("chain") and (form != "amx" or kernels_enabled("amx"))
    switched_on = switched_on and (precision != "int8" or kernels_enabled("int8"))
    return switched_on and target_for(DTYPES[precision], form) is not None
