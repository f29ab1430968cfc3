"""Milliseconds of a robust prediction set over HTTP: one caller, a gateway on loopback that draws in its process.

    python -m benchmarks.set_latency --models DIR --out benchmarks/results/set_latency.md

Each model of the folder that was calibrated (`spacte calibrate`) is asked one set after the other, by RCP1 and BinCP.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from spacte_client import Client

from .common import give_out
from .foreign_models import gateway
from .machine import this_machine

REQUESTS, WARM_UP = 200, 5
SHIFT, ALPHA = 0.5, 0.1


def times_ms(client: Client, model: str, method: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Of requests by the caller's clock, [REQUESTS]."""
    described = client.models.get(model)
    generator, radius = np.random.default_rng(0), SHIFT * described.sigmas[0]
    found: list[float] = []
    for _ in range(WARM_UP + REQUESTS):
        image = generator.integers(0, 256, described.input_shape, dtype=np.uint8)
        started = time.perf_counter()
        client.predict_set(image, model=model, alpha=ALPHA, radius=radius, method=method)
        found.append(1000 * (time.perf_counter() - started))
    return np.array(found[WARM_UP:])


def table(models: Path) -> Iterator[str]:
    """Lines of Markdown."""
    yield from ("# A prediction set over HTTP", "")
    yield f"{this_machine()}, {datetime.now(UTC).date()}. {REQUESTS} requests one after the other,"
    yield from (
        f"radius {SHIFT} sigma, alpha {ALPHA}.",
        "",
        "    python -m benchmarks.set_latency --models DIR --out FILE",
        "",
    )
    yield from ("| Model | Method | Median, ms | 95 %, ms |", "|---|---|---:|---:|")
    with tempfile.TemporaryDirectory() as data, gateway(models, Path(data)) as client:
        while any(model.state == "loading" for model in client.models.list()):
            time.sleep(0.5)
        for model in client.models.list():
            for method in ("rcp1", "bincp"):
                median, worst = np.quantile(times_ms(client, model.name, method), (0.5, 0.95))
                yield f"| {model.name} | {method} | {median:.1f} | {worst:.1f} |"


def main() -> None:
    """Measure, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="folder of calibrated models")
    parser.add_argument("--out", type=Path, help="file for the table")
    options = parser.parse_args()
    give_out("\n".join(table(options.models)) + "\n", options.out)


if __name__ == "__main__":
    main()
