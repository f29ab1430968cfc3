"""Works through the cells of a table until all are done or the time is up; the next call goes on from there."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from spacte_core.checkpoint import CONFIG_FILE, Checkpoint, load_checkpoint
from spacte_core.data import ImageData, load_data
from spacte_core.locks import FolderLockedError, folder_lock
from spacte_trainer.callbacks import Callback
from spacte_trainer.config import TrainConfig, override
from spacte_trainer.metrics import EpochReport, LossMeter
from spacte_trainer.recipes import load_recipe
from spacte_trainer.runs import run
from spacte_trainer.state import StateError
from spacte_workers.engine import EngineError
from spacte_workers.local import LocalCertifier

from .cells import (
    Cell,
    Certified,
    certificates_file,
    precision_of,
    read_cell,
    read_certificates,
    write_cell,
    write_certificates,
)
from .figures import cell_of
from .tables import Setting, Table

if TYPE_CHECKING:
    from rich.console import Console


class TimeIsUpError(Exception):
    """The slice is over; what was done is kept."""


@dataclass
class Deadline(Callback):
    """When a slice ends. As a callback of a training run it ends it, after an epoch where the next would not fit.

    Attributes:
        end: in `time.monotonic` seconds.
        finished: epochs and certificates that the slice came to, which is what the next one goes on from.
    """

    end: float
    finished: int = 0
    seconds: float = 0.0

    def check(self) -> None:
        """Raise TimeIsUpError once the slice is over."""
        if time.monotonic() >= self.end:
            raise TimeIsUpError

    def on_batch_end(self, epoch: int, done: int, total: int, meter: LossMeter) -> None:  # noqa: ARG002
        """An epoch that cannot be finished is not begun; the state of the one before it is on disk by now."""
        if done == 1 and time.monotonic() + self.seconds > self.end:
            raise TimeIsUpError
        self.check()

    def on_epoch_end(self, report: EpochReport) -> None:
        """Remember how long an epoch takes."""
        self.finished += 1
        self.seconds = report.seconds


@dataclass
class Study:
    """A table in a folder.

    Attributes:
        cifar10: where CIFAR-10 is, as a data source; None: as the recipes have it.
        changes: settings of the recipes to replace, as `--set` does.
        wanted: which cells this call works on; all are shown.
        finished: called after each finished cell.
        elsewhere: cells that were left out, because another process works on them.
    """

    table: Table
    folder: Path
    device: torch.device
    console: "Console"
    cifar10: str | None = None
    changes: Mapping[str, object] = field(default_factory=dict)
    wanted: Callable[[Setting, int], bool] = lambda _setting, _seed: True
    finished: Callable[[Setting, int], None] = lambda _setting, _seed: None
    elsewhere: list[tuple[Setting, int]] = field(default_factory=list)

    def cells(self) -> Iterator[tuple[Setting, int]]:
        """All cells, in the order in which they are worked on: the whole table under one seed after the other."""
        return ((setting, seed) for seed in self.table.seeds for setting in self.table.settings)

    def work(self, deadline: Deadline) -> None:
        """Finish the wanted cells one after the other, but for those that another process is at work on.

        Raises:
            TimeIsUpError: not all are done.
            ConfigError, DataError, StateError, CheckpointError: as training and reading raise them.
        """
        for setting, seed in self.cells():
            place = self.folder / setting.place(seed)
            if not self.wanted(setting, seed) or read_cell(place) is not None:
                continue
            deadline.check()
            try:
                with folder_lock(place):
                    if read_cell(place) is None:
                        checkpoint = self.trained(setting, seed, place, deadline)
                        write_cell(place, self.certified(setting, seed, place, checkpoint, deadline))
            except FolderLockedError:
                self.elsewhere.append((setting, seed))
            else:
                self.finished(setting, seed)

    def config(self, setting: Setting, seed: int) -> TrainConfig:
        """The recipe of a cell; the test split is looked at once, when all is trained."""
        changes = {"seed": seed, "validate_every": 0, **self.changes}
        if self.cifar10 is not None and setting.data != "digits":
            changes["data.source"] = self.cifar10
        if setting.data != "digits":
            changes.setdefault("store", "bf16")  # a study's folder is carried from machine to machine
        return override(load_recipe(setting.recipe, setting.sigma), changes)

    def trained(self, setting: Setting, seed: int, place: Path, deadline: Deadline) -> Checkpoint:
        """The checkpoint of a cell, trained on from where it stopped."""
        if not (place / CONFIG_FILE).exists():
            config = self.config(setting, seed)
            run(config, place, device=self.device, console=self.console, resume=True, callbacks=[deadline])
        return load_checkpoint(place)

    def certified(self, setting: Setting, seed: int, place: Path, checkpoint: Checkpoint, deadline: Deadline) -> Cell:
        """The figures of a cell, after those of its images that have no certificate yet got theirs."""
        protocol = setting.protocol
        file = certificates_file(place)
        if file is None:
            raise RuntimeError("a trained cell has a checkpoint")
        done = read_certificates(file)
        write_certificates(file, done)  # drops what an interruption cut short
        precision = precision_of(done.values())
        try:
            certifier = LocalCertifier(place, precision=precision, device=self.device)
        except EngineError as error:
            raise StateError(
                f"{place} was begun at precision {precision}, which cannot be had here ({error}): go on with it where "
                f"it was begun, or remove its {file.name}."
            ) from error
        data = load_data(self.config(setting, seed).data, "test")
        chosen = range(0, len(data), protocol.every)
        with file.open("a") as lines:
            for index in (index for index in evenly(chosen) if index not in done):
                deadline.check()
                began = time.perf_counter()
                pixels_CHW, label = image_of(data, index)
                name = setting.noise(seed, index)
                found = certifier.certify(
                    pixels_CHW,
                    n0=protocol.n0,
                    n=protocol.n,
                    alpha=protocol.alpha,
                    seed=hashlib.blake2b(name.encode(), digest_size=16).hexdigest(),
                )
                correct = not found.abstained and found.label == label
                seconds = time.perf_counter() - began
                done[index] = Certified(index, correct, found.radius, seconds, found.precision)
                lines.write(json.dumps(asdict(done[index])) + "\n")
                lines.flush()
                deadline.finished += 1
        return cell_of(setting, seed, checkpoint, [done[i] for i in chosen], certifier.engine.precision)


def evenly(chosen: range) -> list[int]:
    """The same images in another order: however many of them are done, those lie evenly over all."""
    bits = max(1, (len(chosen) - 1).bit_length())
    return [chosen[i] for i in sorted(range(len(chosen)), key=lambda i: f"{i:0{bits}b}"[::-1])]


def image_of(data: ImageData, index: int) -> tuple[torch.Tensor, int]:
    """Pixels [C, H, W], uint8, and label of one image of a split."""
    (batch,) = data.batches([torch.tensor([index])], torch.device("cpu"))
    return (batch.x_BCHW[0] * 255).round().to(torch.uint8), int(batch.y_B[0])
