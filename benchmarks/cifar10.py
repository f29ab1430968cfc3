"""What the CIFAR-10 model in the box is worth: beside one of its heads, and beside other checkpoints.

    python -m benchmarks.cifar10 --data parquet:../shared/data/cifar10 --beside "one network=runs/cifar10-fast-gaussian"

Every 20th test image (500) at n0 = 100, n = 1,000, alpha = .001, by `spacte certify-dataset --local` in int8; logs and
figures go to benchmarks/results/cifar10/, with what the checkpoints say of themselves. Figures of other checkpoints,
measured before, stay; with --only-beside those of the model in the box do, too. An interrupted measurement goes on
where it stopped. `python -m benchmarks.readme` makes the README's table, the curve and the card's figures of it.
"""

import argparse
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from spacte_client.types import JobSummary
from spacte_core.checkpoint import Checkpoint, load_checkpoint, read_config, save_checkpoint
from spacte_core.data import DataConfig, load_data
from spacte_core.flops import macs_per_sample
from spacte_core.models import MultiHeadNet
from spacte_trainer.evaluation import evaluate

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "models" / "cifar10-fast-spacte-consistency-0.25"
NAME = "wide network, five heads taught in a circle"
RESULTS = ROOT / "benchmarks" / "results" / "cifar10"
WORK = ROOT / "runs" / "benchmark-cifar10"
STRIDE, NOISES = 20, 1_000
PRECISION = "int8"
"""Of the votes: the fastest on every CPU."""

DRAWS = 1
ONE_HEAD = "head 0 of the five alone"


def head_alone(checkpoint: Checkpoint, head: int, folder: Path) -> Path:
    """A checkpoint of one head on the shared backbone."""
    if not (folder / "config.json").exists():
        net = checkpoint.net
        alone = MultiHeadNet(net.normalize, net.backbone, [net.heads[head]])
        model = checkpoint.config.model.model_copy(update={"heads": 1})
        method = f"{checkpoint.config.method}, head {head}"
        save_checkpoint(folder, alone, checkpoint.config.model_copy(update={"model": model, "method": method}))
    return folder


def train_seconds(folder: Path) -> float | None:
    """Of a checkpoint, and of the one that it started from, where that is still there."""
    config, _ = read_config(folder)
    own, init = config.metrics.get("train_seconds"), (config.train or {}).get("init")
    if own is None or not init or not Path(init["model"]).is_dir():
        return own
    return own + (train_seconds(Path(init["model"])) or 0.0)


def certify(checkpoint: Path, data: str, out: Path) -> tuple[JobSummary, float]:
    """The summary of a run of the command, and the seconds from its first certificate to its last."""
    command = [sys.executable, "-m", "spacte_client", "certify-dataset"]
    options = ["--data", data, "--out", out, "--stride", STRIDE, "--n", NOISES, "--precision", PRECISION, "--local"]
    subprocess.run([*command, str(checkpoint), *map(str, options)], check=True)
    lines = (out / "results.ndjson").read_text().splitlines()
    times = [datetime.fromisoformat(json.loads(line)["created_at"]) for line in lines]
    seconds = (max(times) - min(times)).total_seconds()
    return JobSummary.model_validate_json((out / "summary.json").read_text()), seconds


def measured(name: str, folder: Path, data: str, work: Path, log: Path | None) -> dict[str, Any]:
    """Everything about one checkpoint that the tables show."""
    known = work / "figures.json"
    if known.exists():
        return json.loads(known.read_text())
    checkpoint = load_checkpoint(folder)
    config = checkpoint.config
    summary, seconds = certify(folder, data, work)
    evaluation = None
    if log is not None:  # a head's accuracy stands beside those of its fellows
        images = load_data(DataConfig(source=data), "test")
        found = evaluate(checkpoint.net, images, torch.device("cpu"), sigma=config.sigma or 0.0, draws=DRAWS)
        evaluation = found.model_dump()
        shutil.copy(work / "results.tsv", log)
    figures = {
        "name": name,
        "method": config.method,
        "heads": config.model.heads,
        "version": checkpoint.version,
        "epochs": config.epochs,
        "train_seconds": train_seconds(folder),
        "macs": macs_per_sample(checkpoint.net, config.model.input_shape),
        "certify_seconds": round(seconds, 1),
        "evaluation": evaluation,
        "summary": summary.model_dump(mode="json"),
        "log": None if log is None else log.name,
    }
    known.write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def main() -> None:
    """Measure what is missing and write figures.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="parquet:../shared/data/cifar10", help="as `spacte train --data` takes it")
    parser.add_argument("--beside", action="append", default=[], metavar="NAME=FOLDER", help="another checkpoint")
    parser.add_argument("--only-beside", action="store_true", help="leave the model in the box as it was measured")
    parser.add_argument("--work", type=Path, default=WORK, help="where runs are kept that can go on")
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    taught = load_checkpoint(MODEL)
    work = options.work / f"{taught.version[:16]}-{hashlib.sha256(options.data.encode()).hexdigest()[:8]}"
    runs: dict[str, tuple[Path, Path | None]] = {}
    if not options.only_beside:
        runs[NAME] = (MODEL, RESULTS / "spacte-consistency.tsv")
        runs[ONE_HEAD] = (head_alone(taught, 0, work / "head-0"), None)
    for pair in options.beside:
        name, _, folder = pair.partition("=")
        runs[name] = (Path(folder), RESULTS / f"{name.replace(' ', '-').replace(',', '')}.tsv")
    figures = [
        measured(name, folder, options.data, work / name.replace(" ", "-"), log) for name, (folder, log) in runs.items()
    ]
    known = RESULTS / "figures.json"
    before = json.loads(known.read_text())["models"] if known.exists() else []
    names = dict.fromkeys((NAME, ONE_HEAD, *runs, *(found["name"] for found in before)))
    latest = {found["name"]: found for found in (*before, *figures)}
    body = {
        "command": shlex.join(["python", "-m", "benchmarks.cifar10", *sys.argv[1:]]),
        "machine": f"{torch.get_num_threads()} cores",
        "images": f"every {STRIDE}th test image of CIFAR-10, JPEG-coded",
        "n": NOISES,
        "models": [latest[name] for name in names if name in latest],
    }
    (RESULTS / "figures.json").write_text(json.dumps(body, indent=2) + "\n")


if __name__ == "__main__":
    main()
