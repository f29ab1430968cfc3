"""`spacte bench engine`: samples per second against the published loop, in the same run, interleaved.

Also `python -m spacte_workers.bench.engine`, with the client's, the core's and the workers' folders on PYTHONPATH; it
needs torch, scipy, safetensors, pydantic, typer, pillow and opentelemetry-api, and neither Ray nor a server.
"""

import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer import Option

from spacte_core.hardware import cpu_name

if TYPE_CHECKING:
    from spacte_workers.engine import Engine
    from spacte_workers.engine.selection import WantedPrecision

    from .networks import Cost
    from .published import Subject

bench_engine_app = typer.Typer(add_completion=False)

_SEED = "be" * 16  # chosen: any, so that runs repeat
_PRECISIONS = ("fp32", "bf16", "int8")
_MIN_ROUNDS = 5  # chosen: a median of five withstands two disturbed rounds


@dataclass
class _Rounds:
    """What the rounds measured: samples per second by loop or precision, and the machine's own rates."""

    samples: dict[str, list[float]]
    ceilings: dict[str, list[float]]
    copied: list[float]


def bench_engine(subject: "Subject", precisions: Sequence[str], batch: int | None, rounds: int) -> dict[str, Any]:
    """Measure; the answer is what `--json` prints, with the fastest precision at the top level."""
    import torch

    from .networks import cost_of, network_of

    net, config = network_of(subject.arch, subject.heads, subject.sigma, subject.checkpoint)
    engines = {name: _engine(net, config, name, subject, batch) for name in precisions}
    cost = cost_of(net, config.input_shape)
    measured = _measure(subject, {name: engine for name, (engine, _) in engines.items()}, rounds)
    rows = [_row(name, engine, load_s, measured, cost, subject.sigma) for name, (engine, load_s) in engines.items()]
    return {
        **max(rows, key=lambda row: row["samples_per_second"]),
        "baseline_samples_per_second": statistics.median(measured.samples["published"]),
        "baseline_kept_samples_per_second": statistics.median(measured.samples["kept"]),
        "device": torch.cuda.get_device_name(subject.device) if subject.device.startswith("cuda") else cpu_name(),
        "threads": subject.threads,
        "arch": config.arch,
        "heads": config.heads,
        "weights": "random, batch normalisation settled" if subject.checkpoint is None else "checkpoint",
        "sigma": subject.sigma,
        "multiply_adds": cost.multiply_adds,
        "ceilings": {name: statistics.median(found) for name, found in measured.ceilings.items()},
        "copy_bytes_per_second": statistics.median(measured.copied),
        "rounds": rounds,
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "precisions": rows,
        "samples": measured.samples,
    }


def _measure(subject: "Subject", engines: dict[str, "Engine"], rounds: int) -> _Rounds:
    """Time everything once a round, so that all of it meets the same disturbances."""
    import torch

    from spacte_workers.engine.peak_rates import bytes_per_second, multiply_adds_per_second

    from .published import published_loop

    device = torch.device(subject.device)
    found = _Rounds({name: [] for name in ("published", "kept", *engines)}, {}, [])
    with published_loop(subject) as published, published_loop(replace(subject, keep_memory=True)) as kept:
        for _ in range(rounds):
            found.samples["published"].append(published())
            for name, engine in engines.items():
                found.samples[name].append(_rate(engine, subject))
            found.samples["kept"].append(kept())
            for name in dict.fromkeys(engine.precision for engine in engines.values()):
                found.ceilings.setdefault(name, []).append(multiply_adds_per_second(name, device))
            found.copied.append(bytes_per_second(device))
    return found


def _engine(net: Any, config: Any, precision: str, subject: "Subject", batch: int | None) -> tuple["Engine", float]:
    from spacte_workers.engine import Engine

    started = time.perf_counter()
    engine = Engine(
        net,
        input_shape=config.input_shape,
        num_classes=config.num_classes,
        precision=cast("WantedPrecision", precision),
        device=subject.device,
        batch=batch,
        allow_int8=True,
        sigma=subject.sigma,
        # Agreement is reported, not required: the weights may be random.
        min_agreement=0.0 if precision != "auto" else 0.98,
    )
    return engine, time.perf_counter() - started


def _rate(engine: "Engine", subject: "Subject") -> float:
    """Samples per second through the whole engine: noise, forward pass and counting."""
    import torch

    from spacte_workers.images import from_array
    from spacte_workers.shards import NoiseSource, Phase, Shard

    batches = max(1, round(engine.measured_rate * subject.seconds / engine.batch))
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, engine.input_shape, dtype=torch.uint8, generator=generator)
    source = NoiseSource(_SEED, 0, subject.sigma, "grid")
    shard = Shard(source, Phase.ESTIMATION, 0, batches * engine.batch)
    return shard.size / engine.votes(from_array(pixels, input_shape=engine.input_shape), shard).seconds


def _row(
    name: str, engine: "Engine", load_seconds: float, measured: _Rounds, cost: "Cost", sigma: float
) -> dict[str, Any]:
    """One precision's figures; rates are medians over the rounds, in noisy samples.

    `ratio` is over the published loop as it stands, `ratio_kept` over the same loop with an allocator that keeps its
    memory. `ceiling_share` is of the multiply-adds that the machine can do in this precision (`engine.peak_rates`),
    `bandwidth_share` of the bytes that it copies, if each layer's maps were moved once and nothing else;
    `vote_agreement` the share of calibration rows with float32's vote; the last shares are of the time of a batch.
    """
    bytes_each = {"fp32": 4, "bf16": 2, "int8": 1}[engine.precision]
    noise, forward, count = engine.breakdown(sigma)
    whole = noise + forward + count
    mine = measured.samples[name]

    def ratio(others: list[float]) -> float:
        return statistics.median(a / b for a, b in zip(mine, others, strict=True))

    return {
        "precision": engine.precision,
        "form": engine.form.name,
        "batch": engine.batch,
        "samples_per_second": statistics.median(mine),
        "ratio": ratio(measured.samples["published"]),
        "ratio_kept": ratio(measured.samples["kept"]),
        "ceiling_share": cost.multiply_adds * ratio(measured.ceilings[engine.precision]),
        "bandwidth_share": cost.values_moved * bytes_each * ratio(measured.copied),
        "vote_agreement": engine.vote_agreement,
        "noise_share": noise / whole,
        "forward_share": forward / whole,
        "count_share": count / whole,
        "load_seconds": load_seconds,
    }


@bench_engine_app.command("engine")
def engine_command(
    arch: Annotated[
        str,
        Option(
            help="cifar_resnet20 (or another depth), cifar_fast256 (or another width), imagenet_resnet50, digits_cnn."
        ),
    ] = "cifar_resnet20",
    heads: Annotated[int, Option(min=1, help="Heads of the network.")] = 5,
    batch: Annotated[int | None, Option(min=1, help="Rows of a batch; default by measurement.")] = None,
    precision: Annotated[
        str, Option(help="fp32, bf16, int8, auto, several with commas, or all that the machine has.")
    ] = "auto",
    device: Annotated[str | None, Option(help="A torch device; default the first GPU, else cpu.")] = None,
    sigma: Annotated[float, Option(min=1e-3, help="Noise sd in units of [0, 1] pixels.")] = 0.25,
    checkpoint: Annotated[Path | None, Option(help="A trained network's folder, instead of random weights.")] = None,
    rounds: Annotated[int, Option(min=_MIN_ROUNDS, help="Interleaved timings of each.")] = 7,
    seconds: Annotated[float, Option(min=0.01, help="Length of one timing.")] = 1.0,
    as_json: Annotated[bool, Option("--json", help="For programs.")] = False,
) -> None:
    """Noisy samples a second, against the published loop in the same run."""
    import torch

    from spacte_workers.engine import EngineError

    from .published import Subject

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    precisions = list(_PRECISIONS) if precision == "all" else precision.split(",")
    if not set(precisions) <= {"auto", *_PRECISIONS}:
        raise typer.BadParameter(f"{precision!r} is no precision: use fp32, bf16, int8, auto or all.")
    missing = _missing(precisions, device)
    if missing and precision != "all":
        raise typer.TyperException(f"{next(iter(missing.values()))}: use --precision all, auto or fp32.")
    folder = None if checkpoint is None else checkpoint.resolve()
    subject = Subject(arch, heads, sigma, folder, device, seconds, torch.get_num_threads())
    try:
        found = bench_engine(subject, [name for name in precisions if name not in missing], batch, rounds)
    except EngineError as error:
        raise typer.TyperException(str(error)) from error
    found["left_out"] = missing
    typer.echo(json.dumps(found) if as_json else _table(found))


def _missing(precisions: Sequence[str], device: str) -> dict[str, str]:
    """Of precisions those that this machine does not compute, each with the reason."""
    import torch

    from spacte_workers.engine.selection import not_computed

    reasons = {name: not_computed(cast("WantedPrecision", name), torch.device(device)) for name in precisions}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _table(found: dict[str, Any]) -> str:
    head = (
        f"{found['arch']}, {found['heads']} heads, {found['weights']} weights, on {found['device']}, "
        f"{found['threads']} threads, load {found['load_average']:.1f}\n"
        f"published loop {found['baseline_samples_per_second']:,.0f} samples/s; with the allocator kept "
        f"{found['baseline_kept_samples_per_second']:,.0f}\n"
        "precision  form      batch  samples/s   ratio  (kept)  of ceiling  agreement  noise forward count"
    )
    rows = [
        f"{row['precision']:9}  {row['form']:8}{row['batch']:7}{row['samples_per_second']:11,.0f}"
        f"{row['ratio']:8.2f}{row['ratio_kept']:8.2f}{row['ceiling_share']:12.2f}"
        f"{row['vote_agreement']:11.4f}{row['noise_share']:7.1%}{row['forward_share']:8.1%}"
        f"{row['count_share']:6.1%}"
        for row in found["precisions"]
    ]
    left_out = [f"{name} is left out: {reason}." for name, reason in found["left_out"].items()]
    return "\n".join([head, *rows, *left_out])


if __name__ == "__main__":
    bench_engine_app()
