"""Fourteen classifiers that people have: imported, compared with their own code, certified over HTTP, drawn again.

    python -m benchmarks.foreign_models --out benchmarks/results/foreign_models.json

All have random weights and 3 x 32 x 32 or 3 x 16 x 16 inputs, so that the road is measured and not the networks. One
gateway serves all of them. `--names` walks some, whose figures take the place of those that the file has of them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer.main
from tests.foreign_models import NAMES, bring
from torch import Tensor

from spacte_client import Client
from spacte_core.checkpoint import load_checkpoint
from spacte_core.cli import import_app
from spacte_workers.certification.certificates import KERNELS
from spacte_workers.certification.verify import check, replay
from spacte_workers.engine import Engine
from spacte_workers.images import from_array

from .machine import this_machine

ROWS, N0, N = 64, 20, 200
SPACTE = Path(sys.executable).with_name("spacte")
SERVED_WITHIN_S = 900.0  # chosen: all fourteen load in two minutes of an idle machine


@dataclass(frozen=True)
class Walked:
    """What became of one model.

    Attributes:
        difference: the largest between its logits and the source's on 64 inputs, as part of the largest logit.
        import_s, certify_s, replay_s: seconds; of the certificate as the gateway states them.
        kernels: what voted.
        findings: of the certificate's check and replay; none are as they should be.
    """

    name: str
    difference: float
    import_s: float
    certify_s: float
    replay_s: float
    kernels: str
    findings: list[str]


def walk(names: list[str], folder: Path) -> Iterator[Walked]:
    """Bring models into a folder, serve them together, and certify a picture of noise by each."""
    imports = {name: _imported(name, folder, f"m{index}") for index, name in enumerate(names)}
    with gateway(folder / "models", folder / "data") as client:
        for index, name in enumerate(names):
            _served(client, f"m{index}")
            checkpoint = load_checkpoint(folder / "models" / f"m{index}")
            shape = checkpoint.config.model.input_shape
            pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
            certificate = client.certify(pixels, model=f"m{index}", n0=N0, n=N)
            started = time.perf_counter()
            options = {"precision": certificate.precision, "kernels": certificate.versions[KERNELS], "device": "cpu"}
            engine = Engine.from_checkpoint(checkpoint, sigma=certificate.sigma, **options)
            findings = check(certificate) + replay(certificate, engine, from_array(pixels, input_shape=shape))
            replay_s, certify_s = time.perf_counter() - started, certificate.elapsed_ms / 1000
            yield Walked(name, *imports[name], certify_s, replay_s, certificate.versions[KERNELS], findings)


def _imported(name: str, folder: Path, out: str) -> tuple[float, float]:
    """The difference from its source's logits, and the seconds that `spacte import` took."""
    files = folder / "files" / out
    files.mkdir(parents=True)
    brought = bring(name, files)
    started = time.perf_counter()
    arguments = [*brought.arguments, "--sigma", "0.25", "--out", str(folder / "models" / out)]
    typer.main.get_command(import_app).main(arguments, standalone_mode=False)
    seconds = time.perf_counter() - started
    checkpoint = load_checkpoint(folder / "models" / out)
    shape = checkpoint.config.model.input_shape
    x_NCHW = torch.rand(ROWS, *shape, generator=torch.Generator().manual_seed(1)) * 1.5 - 0.25
    parts: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        parts = [(brought.logits(x_BCHW), checkpoint.net(x_BCHW)[0]) for x_BCHW in x_NCHW.split(16)]
    expected, found = (torch.cat(side) for side in zip(*parts, strict=True))
    return float((expected - found).abs().max() / expected.abs().max()), seconds


@contextmanager
def gateway(models: Path, data: Path) -> Iterator[Client]:
    """A client of one that serves a folder in its own process."""
    command = [SPACTE, "serve", "--in-process", "--models", models, "--port", "0", "--log-level", "warning"]
    command += ["--data-dir", data]
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None:
                raise RuntimeError("the gateway has no output")
            with Client(process.stdout.readline().split()[-1].rstrip("/."), timeout=600) as client:
                yield client
        finally:
            process.terminate()


def _served(client: Client, name: str) -> None:
    """Wait until a model is; raises RuntimeError where it will not be."""
    ends = time.monotonic() + SERVED_WITHIN_S
    while (model := client.models.get(name)).state != "ready":
        if model.state == "failed" or time.monotonic() > ends:
            raise RuntimeError(f"{name} is {model.state}: {model.reason}")
        time.sleep(0.5)


def main() -> None:
    """Walk all of them, and write a file."""
    parser = argparse.ArgumentParser(description="Import, serve and certify fourteen classifiers of other libraries.")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--names", nargs="*", default=NAMES, choices=NAMES, metavar="NAME")
    options = parser.parse_args()
    out: Path | None = options.out
    found: dict[str, dict[str, Any]] = {}
    if out is not None and out.exists():
        found = {one["name"]: one for one in json.loads(out.read_text())["models"]}
    with tempfile.TemporaryDirectory() as folder:
        for one in walk(options.names, Path(folder)):
            print(json.dumps(asdict(one)), flush=True)
            found[one.name] = asdict(one)
            if out is not None:
                models = [found[name] for name in NAMES if name in found]
                told = {"machine": this_machine(), "rows": ROWS, "n": N, "models": models}
                out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
