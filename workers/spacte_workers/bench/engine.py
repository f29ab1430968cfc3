"""`spacte bench engine`: samples per second against the published loop, in the same run, interleaved.

Also `python -m spacte_workers.bench.engine`, with the client's, the trainer's and the workers' folders on PYTHONPATH;
it needs torch, scipy, safetensors, pydantic, typer, pillow and opentelemetry-api, and neither Ray nor a server.
"""

import json
import os
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from spacte_core.hardware import cpu_name

from .published import PublishedLoop, Request

if TYPE_CHECKING:
    from spacte_workers.engine import Engine
    from spacte_workers.engine.selection import WantedPrecision

bench_engine_app = typer.Typer(add_completion=False)

_SEED = "be" * 16
_MIN_ROUNDS = 5


@dataclass(frozen=True)
class EngineRow:
    """One precision's figures; rates are medians over the rounds, in noisy samples.

    Attributes:
        ratio: over the published loop as it stands, median of the rounds' ratios; `ratio_kept` over the same
            loop with an allocator that keeps its memory.
        ceiling_share: of the multiply-adds that the machine can do in this precision, see `engine.ceilings`.
        bandwidth_share: of the bytes that it copies, if each layer's maps were moved once and nothing else.
        vote_agreement: share of calibration rows with float32's vote.
        noise_share, forward_share, count_share: of the time of a batch.
    """

    precision: str
    form: str
    batch: int
    samples_per_second: float
    ratio: float
    ratio_kept: float
    ceiling_share: float
    bandwidth_share: float
    vote_agreement: float
    noise_share: float
    forward_share: float
    count_share: float
    load_seconds: float


def bench_engine(
    *,
    arch: str,
    heads: int,
    batch: int | None,
    precisions: list[str],
    device: str,
    sigma: float,
    checkpoint: Path | None,
    rounds: int,
    seconds: float,
) -> dict[str, Any]:
    """Measure; the answer is what `--json` prints, with the fastest precision at the top level."""
    import torch

    from spacte_workers.engine.peak_rates import bytes_per_second, multiply_adds_per_second

    from .networks import cost_of

    request = Request(
        arch=arch,
        heads=heads,
        sigma=sigma,
        checkpoint=None if checkpoint is None else str(checkpoint.resolve()),
        device=device,
        keep_memory=False,
        seconds=seconds,
        threads=torch.get_num_threads(),
    )
    with (
        PublishedLoop(request) as published,
        PublishedLoop(Request(**{**asdict(request), "keep_memory": True})) as kept,
    ):
        net, config = _network(arch, heads, sigma, checkpoint)
        engines = {name: _engine(net, config, name, device, sigma, batch) for name in precisions}
        cost = cost_of(net, config.input_shape)
        where = torch.device(device)
        samples: dict[str, list[float]] = {name: [] for name in ("published", "kept", *precisions)}
        ceilings: dict[str, list[float]] = {engine.precision: [] for engine, _ in engines.values()}
        copied: list[float] = []
        for _ in range(rounds):
            samples["published"].append(published.samples_per_second())
            for name, (engine, _) in engines.items():
                samples[name].append(_rate(engine, sigma, seconds))
            samples["kept"].append(kept.samples_per_second())
            for name, found in ceilings.items():
                found.append(multiply_adds_per_second(name, where))
            copied.append(bytes_per_second(where))
    rows = [
        _row(engine, load_seconds, samples[name], samples, cost, ceilings[engine.precision], copied, sigma)
        for name, (engine, load_seconds) in engines.items()
    ]
    best = max(rows, key=lambda row: row.samples_per_second)
    return {
        **asdict(best),
        "baseline_samples_per_second": statistics.median(samples["published"]),
        "baseline_kept_samples_per_second": statistics.median(samples["kept"]),
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else cpu_name(),
        "threads": request.threads,
        "arch": config.arch,
        "heads": config.heads,
        "weights": "random, batch normalisation settled" if checkpoint is None else "checkpoint",
        "sigma": sigma,
        "multiply_adds": cost.multiply_adds,
        "ceilings": {name: statistics.median(found) for name, found in ceilings.items()},
        "copy_bytes_per_second": statistics.median(copied),
        "rounds": rounds,
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "precisions": [asdict(row) for row in rows],
        "samples": samples,
    }


def _network(arch: str, heads: int, sigma: float, checkpoint: Path | None) -> tuple[Any, Any]:
    from .networks import config_of, settled_network

    if checkpoint is not None:
        from spacte_core.checkpoint import load_checkpoint

        loaded = load_checkpoint(checkpoint)
        return loaded.net, loaded.config.model
    config = config_of(arch, heads)
    return settled_network(config, sigma), config


def _engine(
    net: Any, config: Any, precision: str, device: str, sigma: float, batch: int | None
) -> tuple["Engine", float]:
    from spacte_workers.engine import Engine

    started = time.perf_counter()
    engine = Engine(
        net,
        input_shape=config.input_shape,
        num_classes=config.num_classes,
        precision=cast("WantedPrecision", precision),
        device=device,
        batch=batch,
        allow_int8=True,
        sigma=sigma,
        # Agreement is reported, not required: the weights may be random.
        min_agreement=0.0 if precision != "auto" else 0.98,
    )
    return engine, time.perf_counter() - started


def _rate(engine: "Engine", sigma: float, seconds: float) -> float:
    """Samples per second through the whole engine: noise, forward pass and counting."""
    batches = max(1, round(engine.measured_rate * seconds / engine.batch))
    image, shard = _work(engine, sigma, batches)
    return shard.size / engine.votes(image, shard).seconds


def _work(engine: "Engine", sigma: float, batches: int) -> tuple[Any, Any]:
    import torch

    from spacte_workers.images import from_array
    from spacte_workers.shards import NoiseSource, Phase, Shard

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, engine.input_shape, dtype=torch.uint8, generator=generator)
    source = NoiseSource(_SEED, 0, sigma, "grid")
    image = from_array(pixels, input_shape=engine.input_shape)
    return image, Shard(source, Phase.ESTIMATION, 0, batches * engine.batch)


def _row(
    engine: "Engine",
    load_seconds: float,
    mine: list[float],
    samples: dict[str, list[float]],
    cost: Any,
    ceiling: list[float],
    copied: list[float],
    sigma: float,
) -> EngineRow:
    bytes_each = {"fp32": 4, "bf16": 2, "int8": 1}[engine.precision]
    noise, forward, count = engine.breakdown(sigma)
    whole = noise + forward + count

    def ratio(others: list[float]) -> float:
        return statistics.median(a / b for a, b in zip(mine, others, strict=True))

    return EngineRow(
        precision=engine.precision,
        form=engine.form.name,
        batch=engine.batch,
        samples_per_second=statistics.median(mine),
        ratio=ratio(samples["published"]),
        ratio_kept=ratio(samples["kept"]),
        ceiling_share=cost.multiply_adds * ratio(ceiling),
        bandwidth_share=cost.values_moved * bytes_each * ratio(copied),
        vote_agreement=engine.vote_agreement,
        noise_share=noise / whole,
        forward_share=forward / whole,
        count_share=count / whole,
        load_seconds=load_seconds,
    )


@bench_engine_app.command("engine")
def engine_command(
    arch: Annotated[
        str, typer.Option(help="cifar_resnet20 (or another depth), imagenet_resnet50, digits_cnn.")
    ] = "cifar_resnet20",
    heads: Annotated[int, typer.Option(min=1, help="Heads of the network.")] = 5,
    batch: Annotated[int | None, typer.Option(min=1, help="Rows of a batch; default by measurement.")] = None,
    precision: Annotated[str, typer.Option(help="fp32, bf16, int8, auto, several with commas, or all.")] = "auto",
    device: Annotated[str | None, typer.Option(help="A torch device; default the first GPU, else cpu.")] = None,
    sigma: Annotated[float, typer.Option(min=1e-3, help="Noise sd in units of [0, 1] pixels.")] = 0.25,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A trained network's folder, instead of random weights.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=_MIN_ROUNDS, help="Interleaved timings of each.")] = 7,
    seconds: Annotated[float, typer.Option(min=0.01, help="Length of one timing.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Noisy samples a second, against the published loop in the same run."""
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    every = ["fp32", "bf16"] if device.startswith("cuda") else ["fp32", "bf16", "int8"]
    precisions = every if precision == "all" else precision.split(",")
    if not set(precisions) <= {"auto", "fp32", "bf16", "int8"}:
        raise typer.BadParameter(f"{precision!r} is no precision: use fp32, bf16, int8, auto or all.")
    found = bench_engine(
        arch=arch,
        heads=heads,
        batch=batch,
        precisions=precisions,
        device=device,
        sigma=sigma,
        checkpoint=checkpoint,
        rounds=rounds,
        seconds=seconds,
    )
    if as_json:
        typer.echo(json.dumps(found))
        return
    typer.echo(
        f"{found['arch']}, {found['heads']} heads, {found['weights']} weights, on {found['device']}, "
        f"{found['threads']} threads, load {found['load_average']:.1f}\n"
        f"published loop {found['baseline_samples_per_second']:,.0f} samples/s; with the allocator kept "
        f"{found['baseline_kept_samples_per_second']:,.0f}\n"
        "precision  form      batch  samples/s   ratio  (kept)  of ceiling  agreement  noise forward count"
    )
    for row in found["precisions"]:
        typer.echo(
            f"{row['precision']:9}  {row['form']:8}{row['batch']:7}{row['samples_per_second']:11,.0f}"
            f"{row['ratio']:8.2f}{row['ratio_kept']:8.2f}{row['ceiling_share']:12.2f}"
            f"{row['vote_agreement']:11.4f}{row['noise_share']:7.1%}{row['forward_share']:8.1%}"
            f"{row['count_share']:6.1%}"
        )


if __name__ == "__main__":
    bench_engine_app()
