"""Training runs of seconds on the digits, for the tests of the loop and of what resumes it."""

from pathlib import Path

import torch

from spacte_core.data import load_data
from spacte_trainer.callbacks import Callback
from spacte_trainer.config import TrainConfig, override
from spacte_trainer.loop import train
from spacte_trainer.metrics import EpochReport, LossMeter
from spacte_trainer.recipes import load_recipe

CPU = torch.device("cpu")


def small(recipe: str = "digits-spacte-gaussian", **changes: object) -> TrainConfig:
    """A run of seconds: two epochs, few and large batches, and of the first recipe two heads."""
    settings: dict[str, object] = {"epochs": 2, "batch": 512, "validate_every": 0}
    if recipe == "digits-spacte-gaussian":
        settings["model.heads"] = 2
    return override(load_recipe(recipe), settings | changes)


class Recorder(Callback):
    """Keeps what the loop reports."""

    def __init__(self) -> None:
        self.reports: list[EpochReport] = []
        self.batches: list[tuple[int, int, int]] = []

    def on_batch_end(self, epoch: int, done: int, total: int, meter: LossMeter) -> None:
        """Called by the loop."""
        self.batches.append((epoch, done, total))

    def on_epoch_end(self, report: EpochReport) -> None:
        """Called by the loop."""
        self.reports.append(report)


def trained(config: TrainConfig, folder: Path, *callbacks: Callback) -> dict[str, torch.Tensor]:
    """The weights and statistics that a run ends with."""
    data = load_data(config.data, "train"), load_data(config.data, "test")
    finished = train(config, folder, *data, device=CPU, callbacks=callbacks)
    return {key: value.clone() for key, value in finished.net.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two runs ended in the same bits."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
