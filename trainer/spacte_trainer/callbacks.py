"""Who looks on while a network trains: the terminal, a log of one JSON line an epoch, and TensorBoard."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from spacte_core.files import replace_file

from .evaluate import Accuracy

if TYPE_CHECKING:
    from rich.console import Console

    from .loop import Meter

LOG_FILE = "log.jsonl"
REFRESH_SECONDS = 1.0


@dataclass(frozen=True)
class EpochReport:
    """What an epoch came to.

    Attributes:
        rate: learning rate of its last step.
        steps: optimiser steps.
        seconds: wall time without the validation pass.
        losses: mean over the steps of each part of the loss; `heads` has one number a head.
        validation: accuracy on noisy test images, one draw each; None where it was not measured.
    """

    epoch: int
    epochs: int
    rate: float
    steps: int
    seconds: float
    losses: dict[str, list[float]]
    validation: Accuracy | None


class Watcher(Protocol):
    """Is told of progress."""

    def batch(self, epoch: int, done: int, total: int, meter: "Meter") -> None:
        """`done` of an epoch's `total` batches are behind us. Reading the meter waits for the device."""
        ...

    def epoch(self, report: EpochReport) -> None:
        """An epoch is over."""
        ...


class Watchers:
    """Several as one."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self.watchers = watchers

    def batch(self, epoch: int, done: int, total: int, meter: "Meter") -> None:
        for watcher in self.watchers:
            watcher.batch(epoch, done, total, meter)

    def epoch(self, report: EpochReport) -> None:
        for watcher in self.watchers:
            watcher.epoch(report)


class Log:
    """`log.jsonl` and TensorBoard events; an epoch done over after a crash replaces its first record."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / LOG_FILE
        self.writer = SummaryWriter(str(folder))

    def batch(self, epoch: int, done: int, total: int, meter: "Meter") -> None:
        """Nothing is logged within an epoch."""

    def epoch(self, report: EpochReport) -> None:
        record = asdict(report) | {"validation": report.validation and report.validation.model_dump()}
        kept = [line for line in read_log(self.path) if line["epoch"] < report.epoch]
        replace_file(self.path, "".join(json.dumps(line) + "\n" for line in [*kept, record]).encode())
        for name, value in scalars(report).items():
            self.writer.add_scalar(name, value, report.epoch)
        self.writer.flush()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a `log.jsonl`, one an epoch; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def scalars(report: EpochReport) -> dict[str, float]:
    """A report as named numbers: `loss/ce`, `heads/0`, `accuracy/ensemble` ..."""
    found = {"rate": report.rate, "seconds": report.seconds}
    for name, values in report.losses.items():
        if name == "heads":
            found |= {f"heads/{i}": value for i, value in enumerate(values)}
        else:
            found[f"loss/{name}"] = values[0]
    if report.validation is not None:
        found["accuracy/ensemble"] = report.validation.ensemble
        found["accuracy/disagreement"] = report.validation.disagreement
        found |= {f"accuracy/head_{i}": value for i, value in enumerate(report.validation.heads)}
    return found


class Terminal:
    """A progress bar with the losses of the heads, and a line for each of a few dozen epochs of the run.

    Without a terminal only the lines are printed.
    """

    def __init__(self, console: "Console", epochs: int, title: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = console
        self.every = max(1, round(epochs / 25))
        self.shown = 0.0
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}"),
            console=console,
        )
        self.task = self.progress.add_task(title, total=None, losses="")
        self.total_epochs = epochs

    def __enter__(self) -> "Terminal":
        if self.console.is_terminal:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:  # elsewhere it would leave an empty line
            self.progress.stop()

    def batch(self, epoch: int, done: int, total: int, meter: "Meter") -> None:
        now = time.monotonic()
        if not self.console.is_terminal or now - self.shown < REFRESH_SECONDS:
            return
        self.shown = now
        means = meter.means()
        heads = " ".join(f"{value:.3f}" for value in means["heads"])
        self.progress.update(
            self.task,
            total=self.total_epochs * total,
            completed=(epoch - 1) * total + done,
            losses=f"epoch {epoch}, loss {means['loss'][0]:.3f}, heads {heads}",
        )

    def epoch(self, report: EpochReport) -> None:
        if report.epoch % self.every and report.epoch not in (1, report.epochs):
            return
        heads = " ".join(f"{value:.3f}" for value in report.losses["heads"])
        line = f"epoch {report.epoch:>3}/{report.epochs}  loss {report.losses['loss'][0]:.3f}  heads {heads}"
        if report.validation is not None:
            line += f"  noisy accuracy {report.validation.ensemble:.1%}"
        self.console.print(f"{line}  ({report.seconds:.1f} s)", highlight=False, soft_wrap=True)
