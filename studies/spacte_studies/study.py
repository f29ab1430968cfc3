"""Trains and certifies the cells of a table until all are done or the time is up; the next call continues."""

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from spacte_core.checkpoint import CONFIG_FILE, Checkpoint, load_checkpoint
from spacte_core.data import ImageData, load_data
from spacte_core.errors import UserError
from spacte_core.locks import FolderLockedError, folder_lock
from spacte_trainer.callbacks import Callback
from spacte_trainer.config import TrainConfig, override
from spacte_trainer.metrics import EpochReport, LossMeter
from spacte_trainer.recipes import load_recipe
from spacte_trainer.runs import run
from spacte_trainer.state import StateError
from spacte_workers.batch.results import certificate_record
from spacte_workers.engine import EngineError
from spacte_workers.local import LocalCertifier

from . import asked, cells
from .cells import Cell, Certified
from .tables import Setting, Table

if TYPE_CHECKING:
    from rich.console import Console


class TimeIsUpError(Exception):
    """The slice is over; what was done is kept."""


@dataclass
class TimeSlice(Callback):
    """The time of one call. As a callback of a training run it ends it, after an epoch where the next would not fit.

    Attributes:
        end: in `time.monotonic` seconds.
        finished: epochs and certificates of this slice, from which the next one continues.
        epoch_seconds: how long the last epoch took.
    """

    end: float
    finished: int = 0
    epoch_seconds: float = 0.0

    def check(self) -> None:
        """Raise TimeIsUpError once the slice is over."""
        if time.monotonic() >= self.end:
            raise TimeIsUpError

    def on_batch_end(self, epoch: int, done: int, total: int, meter: LossMeter) -> None:  # noqa: ARG002
        """An epoch that cannot be finished is not begun; the state of the one before it is on disk by now."""
        if done == 1 and time.monotonic() + self.epoch_seconds > self.end:
            raise TimeIsUpError
        self.check()

    def on_epoch_end(self, report: EpochReport) -> None:
        self.finished += 1
        self.epoch_seconds = report.seconds


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
    finished: Callable[[], object] = lambda: None
    elsewhere: list[tuple[Setting, int]] = field(default_factory=list)

    def work(self, time_slice: TimeSlice) -> None:
        """Finish the wanted cells, each under its lock; the whole table under one seed after the other.

        Before the first, all of them are looked at: a mistake in the last one is not found hours later.

        Raises:
            TimeIsUpError: not all are done.
            StateError: a cell was begun for another recipe, setting or protocol than the table has now.
            RecipeError, ConfigError, DataError, StateError, CheckpointError: as training and reading raise them.
        """
        self.check()
        for seed, setting in product(self.table.seeds, self.table.settings):
            folder = self.folder / setting.folder_name(seed)
            if not self.wanted(setting, seed) or cells.finished(folder, setting) is not None:
                continue
            time_slice.check()
            try:
                with folder_lock(folder):
                    if cells.finished(folder, setting) is None:
                        asked.write_asked(folder, self.asked(setting, seed))
                        checkpoint = self.trained(setting, seed, folder, time_slice)
                        cells.write_cell(folder, self.certified(setting, seed, checkpoint, time_slice))
            except FolderLockedError:
                self.elsewhere.append((setting, seed))
            else:
                self.finished()

    def check(self) -> None:
        """Raise what is wrong with a wanted cell, before hours are spent on the others."""
        for setting, seed in product(self.table.settings, self.table.seeds):
            folder = self.folder / setting.folder_name(seed)
            before = asked.read_asked(folder) if cells.is_begun(folder) else None
            if other := asked.difference(before, self.asked(setting, seed)):
                raise StateError(
                    f"{folder} was begun for another study ({other}): give the cell another name, choose another "
                    "--folder, or remove this one."
                )
            if not self.wanted(setting, seed):
                continue
            self.config(setting, seed)
            other_radii = cells.read_cell(folder) is not None and cells.finished(folder, setting) is None
            if other_radii and cells.certificates_file(folder) is None:
                raise StateError(
                    f"{folder} has figures at other radii, and no certificates to read these from: ask for the "
                    "radii of before, choose another --folder, or remove this one."
                )

    def asked(self, setting: Setting, seed: int) -> asked.Asked:
        """What a cell is asked for; of a recipe that is not there, as far as the table says it."""
        try:
            config = self.config(setting, seed)
        except UserError:  # said where the cell is worked on
            config = None
        return asked.asked_of(setting, seed, config)

    def config(self, setting: Setting, seed: int) -> TrainConfig:
        """The recipe of a cell; the test split is looked at once, when all is trained."""
        recipe = load_recipe(setting.recipe, setting.sigma)
        changes = {"seed": seed, "validate_every": 0, **self.changes, **dict(setting.changes)}
        if setting.own_recipe is None and setting.data != "digits":
            changes.setdefault("store", "bf16")  # a study's folder is carried from machine to machine
        if self.cifar10 is not None and recipe.data.source == "cifar10":
            changes.setdefault("data.source", self.cifar10)
        return override(recipe, changes)

    def trained(self, setting: Setting, seed: int, folder: Path, time_slice: TimeSlice) -> Checkpoint:
        """The checkpoint of a cell, trained on from where it stopped; what other cells have trained is taken from them.

        So a naive ensemble of the networks whose own cells are done costs no training, and DRT begins from it.
        """
        if not (folder / CONFIG_FILE).exists():
            config = self.config(setting, seed)
            run(
                config,
                folder,
                device=self.device,
                console=self.console,
                resume=True,
                callbacks=[time_slice],
                trained=sorted(file.parent for file in self.folder.glob(f"**/{CONFIG_FILE}")),
            )
        return load_checkpoint(folder)

    def certified(self, setting: Setting, seed: int, checkpoint: Checkpoint, time_slice: TimeSlice) -> Cell:
        """The figures of a cell, after its remaining images are certified."""
        protocol = setting.protocol
        file = cells.certificates_path(checkpoint.folder, checkpoint.version)
        done = cells.read_certificates(file)
        cells.write_certificates(file, done)  # drops what an interruption cut short
        precision = cells.precision_of(done.values())
        try:
            certifier = LocalCertifier(checkpoint.folder, precision=precision, device=self.device)
        except EngineError as error:
            why = str(error).rstrip(".")
            raise StateError(
                f"{checkpoint.folder} was begun at precision {precision}, which cannot be had here ({why}): "
                f"go on with it where it was begun, or remove its {file.name}."
            ) from error
        data = load_data(self.config(setting, seed).data, "test")
        chosen = range(0, len(data), protocol.every)
        with file.open("a") as lines:
            for index in (index for index in evenly(chosen) if index not in done):
                time_slice.check()
                pixels_CHW, label = image_of(data, index)
                name = setting.noise(seed, index).encode()
                noise = hashlib.blake2b(name, digest_size=16).hexdigest()  # a request's seed has 128 bits
                options = {"n0": protocol.n0, "n": protocol.n, "alpha": protocol.alpha, "bound": "clopper_pearson"}
                found = certifier.certify(pixels_CHW, seed=noise, **options)
                done[index] = Certified(certificate_record(index, label, None, found))
                lines.write(cells.json_line(done[index]))
                lines.flush()
                time_slice.finished += 1
        return Cell.of(setting, seed, checkpoint, [done[i] for i in chosen], certifier.engine.precision)


def evenly(chosen: range) -> list[int]:
    """The same images in bit-reversed order: however many of them are done, those lie evenly over all."""
    bits = max(1, (len(chosen) - 1).bit_length())
    return [chosen[i] for i in sorted(range(len(chosen)), key=lambda i: f"{i:0{bits}b}"[::-1])]


def image_of(data: ImageData, index: int) -> tuple[torch.Tensor, int]:
    """Pixels [C, H, W], uint8, and label of one image of a split."""
    (batch,) = data.batches([torch.tensor([index])], torch.device("cpu"))
    return (batch.x_BCHW[0] * 255).round().to(torch.uint8), int(batch.y_B[0])
