"""What a job costs and what it leaves to others: speed-up, dispatch overhead, memory, interactive latency.

    python -m benchmarks.jobs --models DIR speed memory latency --out benchmarks/results/jobs.md

Figures of the measurements named are kept in a JSON file beside the report, which is written from all of them.
"""

import argparse
import asyncio
import json
import random
import resource
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from spacte_client import Client
from spacte_client.types import JobParams
from spacte_workers.batch.driver import Driver
from spacte_workers.batch.inputs import InputSpec, open_source
from spacte_workers.batch.job_folder import JobFolder, JobSpec
from spacte_workers.scheduling.observers import SampleCounters

from .job_cluster import GatewayProcess, data_folder, wait_until
from .machine import this_machine

SEED = "0123456789abcdef0123456789abcdef"


def resident_mib() -> float:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


async def run_job(model: Path, source: InputSpec, params: JobParams, samplers: int) -> dict[str, Any]:
    """Run the driver of a job in this process, on samplers of a local Ray with a core each.

    Returns:
        seconds from the first to the last image, without the start of the samplers; the share of that time in
        which the samplers drew; memory of the driver in MiB at each tenth of the images.
    """
    from spacte_core.checkpoint import read_config
    from spacte_workers.cluster import RayPool, RaySettings
    from spacte_workers.serving.runtime import Runtime

    config, version = read_config(model)
    settings = RaySettings(num_cpus=2, num_gpus=0, object_store_bytes=128 << 20)
    pool = RayPool(settings, max_samplers=samplers, threads=1)
    counters = SampleCounters()
    runtime = Runtime(model, pool, precision="fp32", allow_client_seed=True, observer=counters)
    channels, height, width = config.model.input_shape
    shape = (channels, height, width)
    with TemporaryDirectory(prefix="spacte-measure-") as place:
        folder = JobFolder(Path(place))
        spec = JobSpec("job", model.name, version, str(model), "fp32", source, params)
        folder.create(spec)
        await runtime.start()
        try:
            async with asyncio.timeout(120):
                while runtime.pool_status().ready < samplers:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            memory: dict[int, float] = {}

            def note(progress: dict[str, Any]) -> None:
                total, left = progress["counts"]["total"], progress["counts"]["remaining"]
                memory[10 * (total - left) // total] = round(resident_mib(), 1)

            opened = open_source(source, shape)
            driver = Driver(
                folder, spec, opened, runtime, input_shape=shape, samplers=lambda: samplers, on_progress=note
            )
            started = time.perf_counter()
            state = await driver.run()
            seconds = time.perf_counter() - started
            opened.close()
        finally:
            await runtime.stop()
    assert state == "succeeded"
    busy = sum(counters.call_seconds.values()) / (seconds * samplers)
    noises = counters.samples_drawn.total()
    return {"seconds": seconds, "busy": busy, "memory": memory, "noises": noises}


def speed(models: Path) -> dict[str, Any]:
    """A job on one sampler and on two."""
    source = InputSpec("dataset", "digits", limit=60)
    params = JobParams(n=20_000, seed=SEED)
    one, two = (asyncio.run(run_job(models / "digits", source, params, count)) for count in (1, 2))
    return {
        "one_s": one["seconds"],
        "two_s": two["seconds"],
        "speed_up": one["seconds"] / two["seconds"],
        "noises_per_s": one["noises"] / one["seconds"],
        "overhead_one": 1 - one["busy"],
        "overhead_two": 1 - two["busy"],
    }


def memory(models: Path) -> dict[str, Any]:
    """Ten thousand small images."""
    with TemporaryDirectory(prefix="spacte-measure-") as folder:
        file = Path(folder) / "images.npz"
        images = np.random.default_rng(0).integers(0, 256, (10_000, 1, 8, 8), dtype=np.uint8)
        np.savez(file, images=images, labels=np.zeros(len(images), np.int64))
        source = InputSpec("file", str(file))
        found = asyncio.run(run_job(models / "digits", source, JobParams(n=100, seed=SEED), 2))
    return {"seconds": found["seconds"], "images_per_s": 10_000 / found["seconds"], "mib": found["memory"]}


def latency(models: Path) -> dict[str, Any]:
    """Certificates of n = 1,000, one after the other, without and with a job that takes all that it can get."""
    with data_folder() as data:
        gateway = GatewayProcess(["--models", str(models), "--precision", "fp32"], data)
        gateway.start()
        try:
            with Client(gateway.url, timeout=60) as client:
                wait_until(lambda: "samplers" in client.health().checks, 60)
                image = min((models / "digits" / "samples").glob("*.png")).read_bytes()
                request_times(client, image, 30)
                idle = request_times(client, image, 150)
                job = client.jobs.create({"type": "dataset", "name": "digits"}, n=200_000)
                wait_until(lambda: client.jobs.get(job.id).counts.certified > 2, 180)
                loaded = request_times(client, image, 150)
                assert client.jobs.get(job.id).state == "running"
                client.jobs.cancel(job.id)
        finally:
            gateway.stop()
    return {
        "idle_ms": quantiles(idle),
        "loaded_ms": quantiles(loaded),
        "ratio_p95": quantiles(loaded)["p95"] / quantiles(idle)["p95"],
    }


def request_times(client: Client, image: bytes, count: int) -> list[float]:
    """Milliseconds of each of so many requests, with random pauses between them."""
    times: list[float] = []
    for _ in range(count):
        time.sleep(random.random() * 0.1)
        started = time.perf_counter()
        client.certify(image, n=1000)
        times.append(1000 * (time.perf_counter() - started))
    return times


def quantiles(times: list[float]) -> dict[str, float]:
    """Median, 95th percentile and largest."""
    return {
        "p50": round(statistics.median(times), 1),
        "p95": round(statistics.quantiles(times, n=20)[-1], 1),
        "max": round(max(times), 1),
    }


MEASUREMENTS = {"speed": speed, "memory": memory, "latency": latency}


def report(figures: dict[str, Any]) -> str:
    """The report of all figures there are."""
    rows: list[tuple[str, str, str]] = []
    if found := figures.get("speed"):
        one, two = f"{found['one_s']:.1f}", f"{found['two_s']:.1f}"
        rows += [
            ("60 digits at n = 20,000, one sampler and two, s", f"{one}, {two}", ""),
            ("Noises a second, one sampler", f"{found['noises_per_s']:,.0f}", ""),
            ("Speed-up of the second sampler", f"{found['speed_up']:.2f}", "at least 1.7"),
            ("Time that a sampler does not draw, one sampler", f"{found['overhead_one']:.1%}", "below 10 %"),
            ("The same, two samplers on all cores", f"{found['overhead_two']:.1%}", ""),
        ]
    if found := figures.get("memory"):
        steps = ", ".join(f"{value:.0f}" for value in found["mib"].values())
        rows += [
            ("10,000 images at n = 100, two samplers, s", f"{found['seconds']:.0f}", ""),
            ("Images a second", f"{found['images_per_s']:.0f}", ""),
            ("Memory of the driver at each tenth of them, MiB", steps, "flat"),
        ]
    if found := figures.get("latency"):
        for name, times in (("idle", found["idle_ms"]), ("with a job at work", found["loaded_ms"])):
            what = f"A certificate of n = 1,000 over HTTP, {name}: p50, p95, largest, ms"
            rows.append((what, f"{times['p50']}, {times['p95']}, {times['max']}", ""))
        rows.append(("p95 with a job over p95 idle", f"{found['ratio_p95']:.2f}", "at most 3"))
    dates = ", ".join(f"{name} {found['date']}" for name, found in figures.items())
    table = "\n".join(f"| {what} | {figure} | {wanted} |" for what, figure, wanted in rows)
    return f"""# What a job costs, and what it leaves to others

    python -m benchmarks.jobs --models DIR speed memory latency

{this_machine()}; fp32, calls of 100 ms, Ray on the same two cores. Measured: {dates}.

| What | Figure | Wanted |
|---|---|---|
{table}

Times of a job are without the start of its samplers, which import torch and check the model.
"""


def main() -> None:
    """Measure, keep the figures, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", choices=MEASUREMENTS, default=list(MEASUREMENTS))
    parser.add_argument("--models", type=Path, required=True, help="folder with a model called digits")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/jobs.md"))
    options = parser.parse_args()
    kept = options.out.with_suffix(".json")
    figures: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    for name in options.what:
        found = MEASUREMENTS[name](options.models.resolve())
        figures[name] = found | {"date": f"{datetime.now(UTC):%Y-%m-%d}"}
        print(name, json.dumps(figures[name]), flush=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(figures, indent=1) + "\n")
        options.out.write_text(report(figures))


if __name__ == "__main__":
    main()
