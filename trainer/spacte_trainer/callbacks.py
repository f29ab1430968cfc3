"""Callbacks of a training run: a progress bar, a log with a JSON line an epoch, and TensorBoard."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spacte_core.files import replace_file

from .metrics import EpochReport, LossMeter

if TYPE_CHECKING:
    from rich.console import Console

LOG_FILE = "log.jsonl"

REFRESH_SECONDS = 1.0
"""Chosen: waiting for the device so seldom costs nothing, and a person sees it move."""

PRINTED_EPOCHS = 25
"""Chosen: about as many lines of a run as fit on a screen."""


class Callback:
    """Called while a network trains. An error that it raises ends the run, which can be resumed."""

    def on_batch_end(self, epoch: int, done: int, total: int, meter: LossMeter) -> None:
        """`done` of an epoch's `total` batches are trained on. Reading the meter waits for the device."""

    def on_epoch_end(self, report: EpochReport) -> None:
        """An epoch is over; its state is written afterwards."""


class JsonLinesLog(Callback):
    """`log.jsonl`, a record an epoch; an epoch that is repeated after a crash replaces its first record."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOG_FILE

    def on_epoch_end(self, report: EpochReport) -> None:
        record = asdict(report) | {"validation": report.validation and report.validation.model_dump()}
        kept = [line for line in read_log(self.path) if line["epoch"] < report.epoch]
        replace_file(self.path, "".join(json.dumps(line) + "\n" for line in [*kept, record]).encode())


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a `log.jsonl`, one an epoch; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class TensorBoardLog(Callback):
    """TensorBoard events of every epoch."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder))

    def on_epoch_end(self, report: EpochReport) -> None:
        for name, value in report.scalars().items():
            self.writer.add_scalar(name, value, report.epoch)
        self.writer.flush()


class ProgressBar(Callback):
    """A progress bar with the losses of the heads, and a line for each of a few dozen epochs of the run.

    Where the output is no terminal, even if the environment asks for colours, only the lines are printed.
    """

    def __init__(self, console: "Console", epochs: int, title: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = console
        self.epochs = epochs
        self.printed_every = max(1, round(epochs / PRINTED_EPOCHS))
        self.updated = 0.0
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}"),
            console=console,
            disable=not (console.is_terminal and console.file.isatty()),
        )
        self.task = self.progress.add_task(title, total=None, losses="")

    def __enter__(self) -> "ProgressBar":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def on_batch_end(self, epoch: int, done: int, total: int, meter: LossMeter) -> None:
        now = time.monotonic()
        if self.progress.disable or now - self.updated < REFRESH_SECONDS:
            return
        self.updated = now
        means = meter.means()
        self.progress.update(
            self.task,
            total=self.epochs * total,
            completed=(epoch - 1) * total + done,
            losses=f"epoch {epoch}, loss {means['loss'][0]:.3f}, heads {_spaced(means['heads'])}",
        )

    def on_epoch_end(self, report: EpochReport) -> None:
        if report.epoch % self.printed_every and report.epoch not in (1, report.epochs):
            return
        loss, heads = report.losses["loss"][0], _spaced(report.losses["heads"])
        line = f"epoch {report.epoch:>3}/{report.epochs}  loss {loss:.3f}  heads {heads}"
        if report.validation is not None:
            line += f"  noisy accuracy {report.validation.ensemble:.1%}"
        self.console.print(f"{line}  ({report.seconds:.1f} s)", highlight=False, soft_wrap=True)


def _spaced(values: list[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)
