"""Every method on the digits: ACR and certified accuracy, training time and cost, single against taught and ensembles.

    python -m benchmarks.digits_methods                         all of it: hours on two cores
    python -m benchmarks.digits_methods --only gaussian --sigmas 0.25 --seeds 0
    python -m benchmarks.digits_methods --minutes 10            a slice; the next call goes on where it stopped

A cell is one method at one sigma under one seed: a training run of the recipe `digits-METHOD`, and a certificate for
each held-out digit (n0 = 100, n = 10,000, alpha = .001). Cells lie in --folder and are never computed twice; training
that was interrupted is resumed. After each cell `benchmarks/results/digits_methods.{json,md}` are written anew.
"""

import argparse
import hashlib
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console

from spacte_trainer.checkpoint import load_checkpoint
from spacte_trainer.config import override
from spacte_trainer.cost import macs_per_sample
from spacte_trainer.data.digits import load_digits
from spacte_trainer.recipes import load_recipe
from spacte_trainer.runs import run
from spacte_workers import LocalCertifier
from spacte_workers.statistics.metrics import average_certified_radius, certified_accuracy

METHODS = (
    "gaussian",
    "spacte-gaussian",
    "ensemble-gaussian",
    "drt-gaussian",
    "consistency",
    "spacte-consistency",
    "smoothmix",
    "spacte-smoothmix",
    "smoothadv",
    "spacte-smoothadv",
    "macer",
    "spacte-macer",
)
SIGMAS = (0.25, 0.5)
SEEDS = (0, 1, 2)
RADII = (0.0, 0.25, 0.5, 0.75)
N0, N, ALPHA = 100, 10_000, 0.001
RESULTS = Path(__file__).parent / "results" / "digits_methods"
CELL_FILE = "cell.json"


@dataclass(frozen=True)
class Cell:
    """What one trained model came to.

    Attributes:
        certified: certified accuracy at RADII.
        train_seconds: wall time of the training, of all members and of what it started from.
        macs: multiply-adds of one noisy sample.
    """

    method: str
    sigma: float
    seed: int
    images: int
    acr: float
    certified: tuple[float, ...]
    train_seconds: float
    macs: int
    certify_seconds: float
    precision: str


def compute(method: str, sigma: float, seed: int, images: int, folder: Path) -> Cell:
    """Train and certify one cell, or read it where it was done before."""
    place = folder / f"{method}-{sigma}-{seed}"
    done = read_cell(place / CELL_FILE) if (place / CELL_FILE).exists() else None
    if done is not None and done.images == images:
        return done
    config = override(load_recipe(f"digits-{method}", sigma), {"seed": seed, "validate_every": 0})
    run(config, place, device=torch.device("cpu"), console=Console(), resume=True)
    checkpoint = load_checkpoint(place)

    began = time.perf_counter()
    certifier = LocalCertifier(place, device="cpu")
    images_NCHW, labels_N = load_digits("test")
    correct, radii = [], []
    for index in range(images):
        name = f"digits-methods/{method}/{sigma}/{seed}/{index}"
        found = certifier.certify(
            images_NCHW[index],
            n0=N0,
            n=N,
            alpha=ALPHA,
            seed=hashlib.blake2b(name.encode(), digest_size=16).hexdigest(),
        )
        correct.append(not found.abstained and found.label == labels_N[index])
        radii.append(found.radius)
    cell = Cell(
        method=method,
        sigma=sigma,
        seed=seed,
        images=images,
        acr=average_certified_radius(correct, radii),
        certified=tuple(point.value for point in certified_accuracy(correct, radii, RADII)),
        train_seconds=checkpoint.config.metrics["train_seconds"],
        macs=macs_per_sample(checkpoint.net, checkpoint.config.model.input_shape),
        certify_seconds=time.perf_counter() - began,
        precision=certifier.engine.precision,
    )
    (place / CELL_FILE).write_text(json.dumps(asdict(cell), indent=2) + "\n")
    return cell


def read_cell(file: Path) -> Cell:
    """A cell that was done before."""
    found = json.loads(file.read_text())
    return Cell(**{**found, "certified": tuple(found["certified"])})


def spread(values: list[float], digits: int) -> str:
    """Mean and standard deviation over the seeds; the value alone where there is one seed."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def table(cells: list[Cell], command: str) -> str:
    """Markdown, a table a sigma; a method without cells says so."""
    lines = ["# Every method on the digits", ""]
    images = sorted({cell.images for cell in cells})
    settings = f"{', '.join(map(str, images))} held-out digits, n0 = {N0}, n = {N:,}, alpha = {ALPHA}"
    lines.append(
        f"`{command}`: {settings}. Mean ± standard deviation over the seeds; training on one thread."
    )
    lines.append("")
    for sigma in SIGMAS:
        lines += [
            f"## sigma {sigma}",
            "",
            "| method | seeds | ACR | " + " | ".join(f"r = {r:g}" for r in RADII) + " | training s | MMACs |",
            "|" + "---|" * (len(RADII) + 5),
        ]
        for method in METHODS:
            found = [cell for cell in cells if (cell.method, cell.sigma) == (method, sigma)]
            if not found:
                lines.append(f"| {method} | 0 | not run |" + " |" * (len(RADII) + 2))
                continue
            shares = [spread([100 * cell.certified[i] for cell in found], 1) for i in range(len(RADII))]
            lines.append(
                f"| {method} | {len(found)} | {spread([cell.acr for cell in found], 3)} | "
                + " | ".join(shares)
                + f" | {spread([cell.train_seconds for cell in found], 0)} | {found[0].macs / 1e6:.2f} |"
            )
        lines.append("")
    return "\n".join(lines)


def write(cells: list[Cell], results: Path, command: str) -> None:
    """The results as JSON and as a table."""
    results.parent.mkdir(parents=True, exist_ok=True)
    body = {"command": command, "n0": N0, "n": N, "alpha": ALPHA, "radii": RADII}
    body["cells"] = [asdict(cell) for cell in cells]
    results.with_suffix(".json").write_text(json.dumps(body, indent=2) + "\n")
    results.with_suffix(".md").write_text(table(cells, command))


def main() -> None:
    """Work through the cells in order until all are done or the time is up."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--sigmas", nargs="+", type=float, choices=SIGMAS, default=SIGMAS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--images", type=int, default=397, help="held-out digits that are certified")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no cell after this long")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/digits_methods"), help="where cells are kept"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="written with .json and .md")
    options = parser.parse_args()
    command = "python -m benchmarks.digits_methods"
    end = time.monotonic() + 60 * options.minutes
    for seed in options.seeds:
        for sigma in options.sigmas:
            for method in options.only:
                if time.monotonic() > end:
                    return
                cell = compute(method, sigma, seed, options.images, options.folder)
                cells = [read_cell(file) for file in sorted(options.folder.glob(f"*/{CELL_FILE}"))]
                write(cells, options.results, command)
                print(f"{method} sigma {sigma} seed {seed}: ACR {cell.acr:.3f}", flush=True)


if __name__ == "__main__":
    main()
