"""How much faster the kernels compute imported networks than PyTorch runs their programs.

    python -m benchmarks.imported_rates --out benchmarks/results/imported_rates.md

Networks of libraries with random weights, exported as `spacte import` does it, at 3 x 64 x 64. Rows a second of
processor time by one thread, the best of several calls of 16 rows each, so that other work counts little.
"""

import argparse
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from spacte_core.forms import Form
from spacte_core.hardware import computes_bf16
from spacte_core.programs import program_network
from spacte_workers.engine.calibration import noisy_rows
from spacte_workers.engine.decomposition import decompose
from spacte_workers.engine.forms import forms

from .common import give_out
from .machine import this_machine

SHAPE, ROWS, CALLS, CLASSES = (3, 64, 64), 16, 7, 10
NAMES = (
    "torchvision:resnet18", "torchvision:resnet50", "torchvision:mobilenet_v3_small", "torchvision:densenet121",
    "torchvision:swin_t", "timm:convnext_atto", "timm:efficientnet_b0", "timm:vit_tiny_patch16_224",
)  # fmt: skip


def network(name: str) -> nn.Module:
    """A network of a library, in eval mode, with statistics of noisy rows."""
    torch.manual_seed(0)
    library, _, model = name.partition(":")
    sized: dict[str, Any] = {"img_size": SHAPE[1]} if "vit" in model else {}
    create: Any = timm.create_model if library == "timm" else torchvision.models.get_model
    made: nn.Module = create(model, num_classes=CLASSES, **sized)
    with torch.no_grad():
        made.train()(noisy_rows(SHAPE, 0.25, 32))
    return made.eval()


def rate(form: Form, rows_NCHW: Tensor) -> float:
    """Rows a second of processor time."""
    x_BCHW = form.encoding(rows_NCHW)
    form.logits(x_BCHW)
    times: list[float] = []
    for _ in range(CALLS):
        started = time.process_time()
        form.logits(x_BCHW)
        times.append(time.process_time() - started)
    return ROWS / min(times)


def line(name: str) -> str:
    """A row of the table."""
    rows = noisy_rows(SHAPE, 0.25, ROWS)
    cells = [name]
    with torch.inference_mode():
        classifier = decompose(program_network(network(name), SHAPE)[0].eval(), rows[:2], CLASSES)
        made = list(forms(classifier, "fp32", ROWS, rows))
        plain = rate(made[-1], rows)
        cells.append(f"{plain:,.0f}")
        halves = computes_bf16(rows.device)
        fastest = (made[0], next(iter(forms(classifier, "bf16", ROWS, rows)), None) if halves else None)
        cells += ["-" if form is None else f"{rate(form, rows) / plain:.2f} ({form.name})" for form in fastest]
    return "| " + " | ".join(cells) + " |"


def table(names: list[str]) -> Iterator[str]:
    """Lines of Markdown."""
    yield from ("# Imported networks, by the kernels", "")
    yield f"{this_machine()}, one thread, {datetime.now(UTC).date()}. 3 x 64 x 64, random weights; in brackets the form"
    yield from ("that is tried first in that precision.", "", "    python -m benchmarks.imported_rates --out FILE", "")
    yield from ("| network | plain float32, rows/s | float32 by kernels, times | bf16, times |", "|---|---|---|---|")
    for name in names:
        yield line(name)


def main() -> None:
    """Measure, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="*", default=list(NAMES))
    parser.add_argument("--out", type=Path, help="file for the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    give_out("\n".join(table(options.names)) + "\n", options.out)


if __name__ == "__main__":
    main()
