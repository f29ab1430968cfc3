"""What each road to a robust model gives a CIFAR-10 network that was trained without noise, at sigma .25.

    python -m benchmarks.made_robust --data parquet:../shared/data/cifar10

The commands of docs/extending.md on one network: as it is, fine-tuned, cut into five heads that teach each other, and
behind a denoiser. Each is certified on every 20th test image (500) at n0 = 100, n = 1,000, alpha = .001. Logs and
figures go to benchmarks/results/made_robust/, the table to docs/training.md. What is done is not done again.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spacte_client.rounding import rounded_down_text
from spacte_core.checkpoint import load_checkpoint
from spacte_workers import save_model

from .cifar10 import NOISES, ROOT, STRIDE, measured
from .machine import this_machine
from .readme import RADII, accuracy, between

PAGE = ROOT / "docs" / "training.md"
RESULTS = ROOT / "benchmarks" / "results" / "made_robust"
WORK = ROOT / "runs" / "made-robust"
MARKS = "<!-- made by `python -m benchmarks.made_robust` -->", "<!-- end -->"
SIGMA = 0.25
CLEAN = (
    "cifar10-fast-gaussian-0.25 --set model.arch=cifar_fast128 --set sigma=0.001 --set optimizer.muon=null "
    "--set data.flip=true"
)
"""A noise of a quarter of a pixel's step: there is no recipe without any. Else what made the table: plain SGD."""

AS_IT_IS = "as it is"
ROADS = {
    "fine-tuned": ("fine-tuned, 3 epochs", "--method gaussian --epochs 3"),
    "heads": ("five heads split off, taught in a circle, 3 epochs", "--method spacte-gaussian --heads 5 --epochs 3"),
    "denoised": ("behind a denoiser, 8 epochs", "denoiser-unet-stability --epochs 8"),
}
"""Folder -> its name in the table, and what `spacte train` is told."""


def train(arguments: Sequence[str], folder: Path) -> Path:
    """The checkpoint that `spacte train` leaves in a folder; what was interrupted goes on."""
    if not (folder / "config.json").exists():
        resume = ["--resume"] if folder.exists() else []
        command = [sys.executable, "-m", "spacte_client", "train", *arguments, "--out", str(folder), *resume]
        subprocess.run(command, check=True)
    return folder


def bring(folder: Path, clean: Path) -> Path:
    """The clean network as its owner would bring it: a module, stored as a program."""
    if not (folder / "config.json").exists():
        checkpoint = load_checkpoint(clean)
        save_model(checkpoint.net, folder, sigma=SIGMA, input_shape=checkpoint.config.model.input_shape)
    return folder


def table(models: Sequence[dict[str, Any]]) -> str:
    """A row a road."""
    columns = ["network", "clean accuracy", "noisy", "ACR", *(f"r = {r:g}" for r in RADII), "MMACs", "minutes"]
    rows = [columns, ["---"] * len(columns)]
    for found in models:
        shares = [found["evaluation"][kind]["ensemble"] for kind in ("clean", "noisy")]
        row = [found["name"], *(f"{100 * share:.1f} %" for share in shares)]
        row += [rounded_down_text(found["summary"]["acr"], 3)]
        row += [accuracy(found["summary"], radius) for radius in RADII]
        seconds = found["train_seconds"]
        rows.append([*row, f"{found['macs'] / 1e6:.0f}", "" if seconds is None else f"{seconds / 60:.0f}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Train and measure what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="parquet:../shared/data/cifar10", help="as `spacte train --data` takes it")
    parser.add_argument("--epochs", type=int, default=8, help="of the clean network")
    parser.add_argument("--threads", type=int, help="of each training; beside other work one is faster than two")
    parser.add_argument("--work", type=Path, default=WORK, help="where runs are kept that can go on")
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    data = ["--data", options.data, *(["--set", f"threads={options.threads}"] if options.threads else [])]
    clean = train([*CLEAN.split(), "--epochs", str(options.epochs), *data], options.work / "clean")
    mine = bring(options.work / "mine", clean)
    folders = {AS_IT_IS: mine}
    for folder, (name, road) in ROADS.items():
        arguments = [*road.split(), "--init", str(mine), "--sigma", str(SIGMA), *data]
        folders[name] = train(arguments, options.work / folder)
    models = [
        measured(name, folder, options.data, options.work / f"measured-{i}", RESULTS / f"{i}.tsv")
        for i, (name, folder) in enumerate(folders.items())
    ]
    body = {
        "command": shlex.join(["python", "-m", "benchmarks.made_robust", *sys.argv[1:]]),
        "machine": this_machine(),
        "images": f"every {STRIDE}th test image of CIFAR-10, JPEG-coded",
        "n": NOISES,
        "models": models,
    }
    (RESULTS / "figures.json").write_text(json.dumps(body, indent=2) + "\n")
    PAGE.write_text(between(PAGE.read_text(), table(models), MARKS))


if __name__ == "__main__":
    main()
