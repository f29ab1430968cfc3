"""What several cells of a study have in common is trained once, and comes to what training it again comes to."""

import io
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from spacte_core.checkpoint import load_checkpoint
from spacte_studies.study import Study, TimeSlice
from spacte_studies.tables import DIGITS, Setting, Table
from spacte_trainer.callbacks import LOG_FILE

pytestmark = pytest.mark.slow

SMALL = replace(DIGITS, every=80, n=100)
SINGLE = Setting("digits", "gaussian", 0.25, SMALL)
PAIR = Setting("digits", "ensemble-gaussian", 0.25, SMALL, changes=(("members", 2),))
CHANGES = {"epochs": 1, "batch": 700}


def work(folder: Path, *parts: tuple[Setting, int], **changes: object) -> str:
    """Finish these cells; what is said on the console."""
    console = Console(file=io.StringIO(), width=400)
    table = Table("A table", tuple(dict.fromkeys(setting for setting, _ in parts)), (0, 1))
    device, given = torch.device("cpu"), {**CHANGES, **changes}
    study = Study(table, folder, device, console, changes=given, wanted=lambda *cell: cell in parts)
    study.work(TimeSlice(time.monotonic() + 3600))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_network_is_trained_once_for_its_own_cell_and_an_ensemble(tmp_path: Path) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    work(alone, (PAIR, 0))
    said = work(shared, (SINGLE, 0), (SINGLE, 1), (PAIR, 0))
    cell = PAIR.folder_name(0)
    # The whole table under one seed after the other: the second single network is the ensemble's second member.
    assert f"Taken from {shared / SINGLE.folder_name(0)}, which was trained alike." in said
    assert f"Taken from {shared / cell}/training/member-1, which was trained alike." in said
    assert len(list(shared.rglob(LOG_FILE))) == 2, "each network is trained once"
    ours, theirs = load_checkpoint(shared / cell), load_checkpoint(alone / cell)
    for name, value in theirs.net.state_dict().items():
        assert torch.equal(ours.net.state_dict()[name], value), name
    measured = [{**one.config.metrics, "train_seconds": 0} for one in (ours, theirs)]
    assert measured[0] == measured[1]
    singles = [load_checkpoint(shared / SINGLE.folder_name(seed)).config for seed in (0, 1)]
    assert ours.config.metrics["train_seconds"] == pytest.approx(sum(one.metrics["train_seconds"] for one in singles))


@pytest.mark.parametrize("changes", [{"epochs": 2}, {"batch": 600}, {"store": "bf16"}])
def test_a_network_that_was_trained_otherwise_is_not_taken(tmp_path: Path, changes: dict[str, object]) -> None:
    work(tmp_path, (SINGLE, 0))
    assert "Taken from" not in work(tmp_path, (PAIR, 0), **changes)
