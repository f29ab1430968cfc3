"""Promise: a table of one's own is a small file, and its recipes may come from one's own package."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from spacte_studies.cli import reproduce_app
from spacte_studies.study import Study
from spacte_studies.study_files import StudyFileError, read_study
from spacte_studies.tables import DIGITS
from spacte_trainer.config import override
from spacte_trainer.recipes import load_recipe

HEADS = """
title: Heads on the digits
seeds: [0]
certify: {every: 100, n: 200, alpha: 0.01, radii: [0, 0.25]}
cells:
  - {name: one head, recipe: digits-gaussian, sigma: 0.25, set: {epochs: 2}}
  - {name: two heads, recipe: digits-spacte-gaussian, sigma: 0.25, set: {model.heads: 2, epochs: 2}, published: 0.5}
"""


def test_a_file_is_a_table(tmp_path: Path) -> None:
    (tmp_path / "heads.yaml").write_text(HEADS)
    table = read_study(tmp_path / "heads.yaml")
    one, two = table.settings
    assert (table.title, table.seeds) == ("Heads on the digits", (0,))
    assert (one.recipe, dict(one.changes)) == ("digits-gaussian", {"epochs": 2})
    assert (one.protocol.n, one.protocol.n0) == (200, DIGITS.n0)
    assert two.published_acr == 0.5
    assert one.folder_name(3) == "heads-one-head-0.25-3"
    (tmp_path / "same.py").write_text(f"import yaml\nSTUDY = yaml.safe_load('''{HEADS}''')")
    assert [s.method for s in read_study(tmp_path / "same.py").settings] == ["one-head", "two-heads"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("title: x\ncells: []", "cells"),
        ("title: x\ncells: [{name: a, recipe: r, sigma: -1}]", "sigma"),
        ("title: x\ncells: [{name: a, recipe: r, sigma: 1, seed: 3}]", "seed"),
        ("title: x\ncells: [{name: a, recipe: r, sigma: 1}, {name: a, recipe: q, sigma: 1}]", "a name of its own"),
        ("{", "cannot be read as a study"),
        ("", "the whole"),
    ],
)
def test_what_is_no_study_is_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(StudyFileError, match=says) as error:
        read_study(tmp_path / "x.yaml")
    assert "\n" not in str(error.value)


def test_an_unknown_table_names_those_there_are() -> None:
    done = CliRunner().invoke(reproduce_app, ["no-such-table"])
    assert done.exit_code == 2
    assert "spacte-cifar10" in done.output


STUDIES = Path(__file__).parents[3] / "benchmarks" / "studies"


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_studies_that_are_kept_can_be_run(path: Path) -> None:
    """And their CIFAR-10 is where the command says."""
    table = read_study(path)
    study = Study(table, path.parent, torch.device("cpu"), Console(), cifar10="parquet:here")
    for setting in table.settings:
        config = study.config(setting, 1)
        assert config.seed == 1
        assert config.data.source == ("digits" if "digits" in config.recipe else "parquet:here")
        assert set(dict(setting.changes)).isdisjoint({"data.source", "seed"})
    assert {path.stem for path in STUDIES.iterdir()} >= {"digits_teaching", "cifar10_fast_teaching"}


@pytest.mark.slow
def test_it_runs_to_the_end(tmp_path: Path) -> None:
    (tmp_path / "heads.yaml").write_text(HEADS)
    folder = tmp_path / "runs"
    done = CliRunner().invoke(reproduce_app, [str(tmp_path / "heads.yaml"), "--folder", str(folder), "--minutes", "5"])
    assert done.exit_code == 0, done.output
    table = (folder / "results.md").read_text()
    assert "| one-head | 1 of 1 |" in table
    assert "| two-heads | 1 of 1 |" in table
    assert "0.500" in table


@pytest.mark.slow
def test_recipes_come_from_a_package_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        textwrap.dedent("""
            from spacte_trainer.config import override
            from spacte_trainer.recipes import load_recipe

            def short(sigma):
                return override(load_recipe("digits-gaussian", sigma), {"epochs": 1})
        """)
    )
    about = tmp_path / "mine-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[spacte.recipes]\nmine-short = mine:short\n")
    study = "title: Mine\ncertify: {every: 200, n: 100}\ncells: [{name: short, recipe: mine-short, sigma: 0.5}]"
    (tmp_path / "mine.yaml").write_text(study)
    command = [sys.executable, "-m", "spacte_client", "reproduce", "mine.yaml", "--folder", "runs", "--minutes", "5"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "| short | 1 of 1 |" in (tmp_path / "runs" / "results.md").read_text()


def test_the_studies_of_the_docs_can_be_read(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    studies = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if block.startswith("title")]
    assert len(studies) == 2
    for number, study in enumerate(studies):
        (tmp_path / f"{number}.yaml").write_text(study)
        for setting in read_study(tmp_path / f"{number}.yaml").settings:
            override(load_recipe(setting.recipe, setting.sigma), dict(setting.changes))
