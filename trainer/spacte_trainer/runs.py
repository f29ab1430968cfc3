"""From a configuration to a checkpoint folder: first its `pretrain` run, then its members or its network.

OUT/config.json, OUT/model.safetensors      the checkpoint, written when all is done
OUT/training/                               state, log.jsonl and TensorBoard events of a single network
OUT/training/pretrain/                      the run whose weights it starts from, a folder like OUT
OUT/training/member-0/ ...                  the members of a naive ensemble, folders like OUT
"""

import platform
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import ValidationError

from spacte_core.checkpoint import (
    CONFIG_FILE,
    Checkpoint,
    CheckpointConfig,
    CheckpointError,
    load_checkpoint,
    read_config,
    save_checkpoint,
)
from spacte_core.data import ImageData, load_data
from spacte_core.locks import folder_lock
from spacte_core.models import MultiHeadNet, ensemble_of
from spacte_core.models.ensemble import Ensemble
from spacte_core.sample_images import write_samples
from spacte_core.versions import installed_version

from .callbacks import Callback, JsonLinesLog, ProgressBar, TensorBoardLog
from .config import TrainConfig, computes, identifying_settings, resolve_precision
from .evaluation import evaluate
from .initial import storable
from .loop import checked_network, train
from .process_group import ProcessGroup
from .state import STATE_FILE, StateError

if TYPE_CHECKING:
    from rich.console import Console

TRAINING = "training"


@dataclass
class Pipeline:
    """Carries out the parts of a run, which share a device and data that are read once.

    Attributes:
        trained: checkpoint folders of other runs; a part that one of them has trained is taken from there.
    """

    config: TrainConfig
    device: torch.device
    console: "Console"
    group: ProcessGroup
    callbacks: Sequence[Callback]
    trained: Sequence[Path] = ()

    @cached_property
    def train_data(self) -> ImageData:
        """The training split; unreadable images are named on the console."""
        data = load_data(self.config.data, "train")
        if data.skipped and self.group.rank == 0:
            self.console.print(f"Left out {len(data.skipped)} unreadable images: {', '.join(data.skipped[:5])}")
        return data

    @cached_property
    def test_data(self) -> ImageData:
        """The held-out split."""
        return load_data(self.config.data, "test")

    def train_or_load(self, config: TrainConfig, folder: Path, title: str) -> MultiHeadNet:
        """The trained network of `config`, from the checkpoint in `folder` where it was finished before."""
        if (folder / CONFIG_FILE).exists():
            return self._finished(config, folder)
        if (found := self._elsewhere(config)) is not None:
            net, metrics = found.net, found.config.metrics
        else:
            net, metrics = self._trained(config, folder, title)
        if self.group.rank == 0:
            described = describe(config, self.train_data.class_names, metrics)
            save_checkpoint(folder, net, described, dtype=stored_type(config))
            (folder / TRAINING / STATE_FILE).unlink(missing_ok=True)
        self.group.barrier()
        return net

    def _elsewhere(self, config: TrainConfig) -> Checkpoint | None:
        """A finished run that differs from `config` in names alone."""
        wanted = computes(config)
        for folder in self.trained:
            try:
                trained = TrainConfig.model_validate(read_config(folder)[0].train)
            except (CheckpointError, ValidationError):  # not finished, imported, or of another version
                continue
            if computes(trained) == wanted and trained.store == config.store:
                self.console.print(f"Taken from {folder}, which was trained alike.")
                return load_checkpoint(folder, self.device)
        return None

    def _trained(self, config: TrainConfig, folder: Path, title: str) -> tuple[MultiHeadNet, dict[str, float]]:
        """The network, trained, as it is stored, and its metrics; these only where the group's rank is 0."""
        if config.members > 1:
            net, seconds = self._ensemble(config, folder)
        else:
            net, seconds = self._single(config, folder, title)
        if self.group.rank != 0:
            return net, {}
        if (stored := stored_type(config)) is not None:
            net.to(stored).float()  # what is measured is what is stored
        net = storable(net, config)
        measured = evaluate(net, self.test_data, self.device, sigma=config.sigma, seed=config.seed)
        return net, {
            "clean_accuracy": measured.clean.ensemble,
            "noisy_accuracy": measured.noisy.ensemble,
            "train_seconds": seconds,
        }

    def _single(self, config: TrainConfig, folder: Path, title: str) -> tuple[MultiHeadNet, float]:
        """One network and the seconds that its training took, with those of `pretrain`."""
        place = folder / TRAINING
        start, before = None, 0.0
        if config.pretrain is not None:
            checked_network(config, self.train_data, self.group.size)  # or a mistake is found hours later
            part = place / "pretrain"
            start = self.train_or_load(config.pretrain, part, f"{title}, what it starts from").state_dict()
            before = load_checkpoint(part).config.metrics["train_seconds"]
        place.mkdir(parents=True, exist_ok=True)
        with ProgressBar(self.console, config.epochs, title) as bar:
            logs = [bar, JsonLinesLog(place), TensorBoardLog(place)] if self.group.rank == 0 else []
            trainer = train(
                config,
                place,
                self.train_data,
                self.test_data,
                device=self.device,
                callbacks=[*logs, *self.callbacks],
                start=start,
                group=self.group,
            )
        return trainer.net, before + trainer.seconds

    def _ensemble(self, config: TrainConfig, folder: Path) -> tuple[MultiHeadNet, float]:
        """The members one after the other; each is resumed, or reused where it is finished."""
        nets, seconds = [], 0.0
        for index in range(config.members):
            member = config.model_copy(update={"members": 1, "seed": config.seed + index})
            part = folder / TRAINING / f"member-{index}"
            nets.append(self.train_or_load(member, part, f"member {index + 1} of {config.members}"))
            seconds += load_checkpoint(part).config.metrics["train_seconds"]
        return Ensemble(nets), seconds

    def _finished(self, config: TrainConfig, folder: Path) -> MultiHeadNet:
        """The network of a finished part; raises StateError where its settings are others."""
        checkpoint = load_checkpoint(folder, self.device)
        try:
            before = identifying_settings(TrainConfig.model_validate(checkpoint.config.train))
        except ValidationError:  # imported, or of another version
            before = None
        if before != identifying_settings(config):
            raise StateError(f"{folder} holds a model trained with other settings: choose another --out.")
        return checkpoint.net


def run(
    config: TrainConfig,
    out: Path,
    *,
    device: torch.device,
    console: "Console",
    resume: bool = False,
    group: ProcessGroup | None = None,
    callbacks: Sequence[Callback] = (),
    trained: Sequence[Path] = (),
) -> Path:
    """Carry out `config` and leave its checkpoint in `out`, which is returned.

    The `callbacks` are called in every part of the run. An error of theirs ends it; `resume` continues it. A part
    that a run in one of the folders `trained` has computed, such as a member of an ensemble, is taken from there.

    Raises:
        StateError: `out` holds a run and `resume` is off, it is another run's, or a process is at work on it.
        ConfigError, DataError: see `loop.train` and `data.load_data`.
    """
    config = resolve_precision(config, device)
    group = group or ProcessGroup()
    check_new(out, resume=resume)
    with folder_lock(out / TRAINING) if group.rank == 0 else nullcontext():
        pipeline = Pipeline(config, device, console, group, callbacks, trained)
        pipeline.train_or_load(config, out, config.recipe)
        if group.rank == 0:
            write_samples(out, pipeline.test_data)
    return out


def stored_type(config: TrainConfig) -> torch.dtype | None:
    """Of the checkpoint's weights; None: as they were trained."""
    return torch.bfloat16 if config.store == "bf16" else None


def check_new(out: Path, *, resume: bool) -> None:
    """Raise StateError where `out` holds a run that was not asked to be resumed."""
    begun = (out / CONFIG_FILE).exists() or any(out.glob(f"{TRAINING}/**/{STATE_FILE}"))
    if begun and not resume:
        raise StateError(f"{out} already holds a run: add --resume to carry it on, or choose another --out.")


def describe(config: TrainConfig, class_names: Sequence[str], metrics: dict[str, float]) -> CheckpointConfig:
    """The checkpoint's description of its run."""
    return CheckpointConfig(
        model=ensemble_of((config.model,) * config.members) if config.members > 1 else config.model,
        class_names=tuple(class_names),
        sigma=config.sigma,
        method=config.method,
        dataset=config.data.source,
        preprocessing=config.data.preprocessing,
        epochs=config.epochs,
        seed=config.seed,
        train=config.model_dump(mode="json"),
        metrics=metrics,
        versions={
            "spacte_trainer": installed_version("spacte-trainer"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    )
