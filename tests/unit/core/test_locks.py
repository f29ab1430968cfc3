"""Two processes never train into one folder."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from spacte_core.locks import FolderLockedError, folder_lock
from spacte_trainer.callbacks import ProgressBar
from spacte_trainer.metrics import LossMeter
from spacte_trainer.recipes import load_recipe
from spacte_trainer.runs import TRAINING, run

HOLDER = """
import sys, time
from pathlib import Path
from spacte_core.locks import folder_lock

with folder_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_folder_belongs_to_one_process_until_it_ends(tmp_path: Path):
    folder = tmp_path / "new"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(FolderLockedError, match=r"Another process is at work in .*new: wait for it"),
            folder_lock(folder),
        ):
            pass
        holder.kill()
    with folder_lock(folder):
        pass


def test_a_run_is_refused_where_another_is_at_work(tmp_path: Path):
    console = Console(quiet=True)
    with folder_lock(tmp_path / TRAINING), pytest.raises(FolderLockedError):
        run(load_recipe("digits-gaussian"), tmp_path, device=torch.device("cpu"), console=console, resume=True)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize("environment", [{}, {"FORCE_COLOR": "1"}, {"TTY_COMPATIBLE": "1"}])
def test_a_log_file_gets_no_bar_and_no_empty_lines(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whatever the environment says of colours: only a terminal can draw over what it has shown."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with (tmp_path / "log").open("w") as log:
        console = Console(file=log)
        assert console.is_terminal == bool(environment)
        with ProgressBar(console, 3, "a run") as bar:
            bar.on_batch_end(1, 1, 1, LossMeter({"loss": torch.ones(1), "heads": torch.ones(2)}, 1))
    assert not (tmp_path / "log").read_text()
