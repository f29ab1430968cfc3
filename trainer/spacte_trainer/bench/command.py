"""`spacte bench train`: steps a second against the plainest loop of the same method, in the same run.

The plain loop is float32, eager, in PyTorch's default layout and with its default allocator, and reads the loss
after every step. Each loop has a process of its own, since an allocator that keeps its memory, or a compiled network,
would speed up the other one. Both start from the same weights and see the same batches and noises. They take
turns, so that a busy machine slows both, and the figure is the median of the pairs' ratios.
"""

import json
import multiprocessing
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Annotated

import typer

from spacte_core.openmp import set_wait_policy

if TYPE_CHECKING:
    from spacte_trainer.config import TrainConfig

RECIPE = "cifar10-resnet20-spacte-gaussian-0.25"

WARM_UP_BATCHES = 4
"""At least, in the turn that is not timed: more than the runs before a GPU captures a step."""

EXIT_SECONDS = 30
"""For a process to end. Chosen: one that takes longer is stuck."""

bench_train_app = typer.Typer(help="Steps a second against a plain loop.")


@dataclass(frozen=True)
class Comparison:
    """The speeds of the two loops.

    Attributes:
        ours, plain: optimiser steps a second, medians over the turns.
        speedup, lowest, highest: of the pairs' ratios, the median and the extremes.
        losses: (ours, plain), the mean loss of each turn.
    """

    recipe: str
    device: str
    precision: str
    compiled: bool | str
    threads: int
    ours: float
    plain: float
    speedup: float
    lowest: float
    highest: float
    losses: tuple[tuple[float, float], ...]

    @property
    def loss_difference(self) -> float:
        """The largest relative difference between the losses of a pair."""
        return max(abs(ours - plain) / abs(plain) for ours, plain in self.losses)


@contextmanager
def child(kind: str, config: "TrainConfig", device: str, threads: int | None) -> Iterator[Connection]:
    """A process that trains on demand; see `loops.serve`."""
    from .loops import serve

    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there, kind, config, device, threads), daemon=True)
    process.start()
    try:
        yield here
        here.send(0)
        process.join(timeout=EXIT_SECONDS)
    finally:
        process.terminate()


def compare(
    config: "TrainConfig", *, device: str = "cpu", batches: int = 1, pairs: int = 5, threads: int | None = None
) -> Comparison:
    """Let both loops train on `batches` loader batches in turn, `pairs` times after a turn to warm up."""
    with child("plain", config, device, threads) as plain, child("ours", config, device, threads) as ours:
        used_threads = plain.recv()
        ours.recv()
        turns: list[dict[str, tuple[int, float, float]]] = []
        for turn in range(pairs + 1):
            answers = {}
            # The first one alternates, so that a machine that slows down favours neither.
            for name, pipe in (("plain", plain), ("ours", ours))[:: 1 if turn % 2 else -1]:
                pipe.send(batches if turn else max(batches, WARM_UP_BATCHES))
                answers[name] = pipe.recv()
            turns.append(answers)
    rates = {name: [turn[name][0] / turn[name][1] for turn in turns[1:]] for name in ("ours", "plain")}
    ratios = [ours / plain for ours, plain in zip(rates["ours"], rates["plain"], strict=True)]
    return Comparison(
        recipe=config.recipe,
        device=device,
        precision=config.precision,
        compiled=config.compile,
        threads=used_threads,
        ours=statistics.median(rates["ours"]),
        plain=statistics.median(rates["plain"]),
        speedup=statistics.median(ratios),
        lowest=min(ratios),
        highest=max(ratios),
        losses=tuple((turn["ours"][2], turn["plain"][2]) for turn in turns),
    )


def by_sgd(config: "TrainConfig") -> "TrainConfig":
    """The configuration as both loops train it: with SGD for all weights, and no average of them."""
    optimizer = config.optimizer.model_copy(update={"muon": None})
    return config.model_copy(update={"optimizer": optimizer, "ema": 0.0})


@bench_train_app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Whose method, network and settings.")] = RECIPE,
    batches: Annotated[int, typer.Option(min=1, help="Loader batches a turn.")] = 1,
    pairs: Annotated[int, typer.Option(min=1, help="Turns of each loop that are timed.")] = 5,
    device: Annotated[str | None, typer.Option(help="cpu, cuda ... [cuda where there is one]")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of a CPU [all cores].")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any field of the recipe.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Training steps a second, beside an eager float32 loop of the same method on the same batches and noises.

    Both train by SGD, also where the recipe has Muon.
    """
    set_wait_policy()
    from rich.console import Console

    from spacte_core.errors import one_sentence
    from spacte_core.hardware import choose_device
    from spacte_trainer.cli.train import configure
    from spacte_trainer.config import resolve_precision

    with one_sentence():
        chosen = choose_device(device)
        config = by_sgd(resolve_precision(configure(recipe, None, {}, settings), chosen))
        count = threads or config.threads
        found = compare(config, device=str(chosen), batches=batches, pairs=pairs, threads=count)
    if as_json:
        print(json.dumps({**asdict(found), "loss_difference": found.loss_difference}, indent=2))
        return
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"[bold]{found.recipe}[/] on {found.device}, {found.threads} threads, random images")
    console.print(f"plain float32 loop   {found.plain:8.2f} steps/s")
    console.print(f"this trainer         {found.ours:8.2f} steps/s  ({found.precision})")
    console.print(
        f"[bold]{found.speedup:.2f}x[/] (median of {pairs} pairs, {found.lowest:.2f} to {found.highest:.2f}); "
        f"losses differ by at most {found.loss_difference:.2%}"
    )
