"""Promise: a table of one's own is a small file, and its recipes may come from one's own package."""

import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner, Result

from spacte_studies.asked import asked_of, difference
from spacte_studies.cli import reproduce_app
from spacte_studies.study import Study
from spacte_studies.study_files import StudyFileError, read_study
from spacte_studies.tables import DIGITS, Setting
from spacte_trainer.config import override
from spacte_trainer.recipes import RecipeError, _installed, load_recipe

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


def test_the_name_of_a_row_is_one_cell_of_a_table(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text('title: x\ncells: [{name: "a | b\\n c", recipe: r, sigma: 1}]')
    assert read_study(tmp_path / "x.yaml").settings[0].row == "a / b c"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("title: x\ncells: []", "cells"),
        ("title: x\ncells: [{name: a, recipe: r, sigma: -1}]", "sigma"),
        ("title: x\ncells: [{name: a, recipe: r, sigma: 1, seed: 3}]", "seed"),
        ("title: x\ncells: [{name: a, recipe: r, sigma: 1}, {name: a, recipe: q, sigma: 1}]", "a name of its own"),
        ("title: x\ncells: [{name: a, recipe: r, sigma: 1}, {name: A, recipe: q, sigma: 1}]", "large or small"),
        ("title: x\ncells: [{name: a, recipe: r, sigma: true}]", "cells.0.sigma"),
        ("title: x\ncertify: {n: true}\ncells: [{name: a, recipe: r, sigma: 1}]", "certify.n"),
        ("title: x\ncertify: {radii: [true]}\ncells: [{name: a, recipe: r, sigma: 1}]", "certify.radii.0"),
        ("{", "cannot be read as a study"),
        ("", "the whole"),
        ("title: x\nseeds: [0, 0]\ncells: [{name: a, recipe: r, sigma: 1}]", "twice"),
        ("title: x\nseeds: [-1]\ncells: [{name: a, recipe: r, sigma: 1}]", "seeds"),
        ("title: x\nseeds: [true]\ncells: [{name: a, recipe: r, sigma: 1}]", "seeds"),
        ("title: x\nseeds: [2024-13-45]\ncells: []", "cannot be read as a study"),
        ("title: x\ncells: [{name: a, recipe: r, sigma: 1, set: {sigma: 2}}]", "sigma is no setting"),
        ("title: x\ncells: [{name: a, recipe: r, sigma: 1, set: {epochs: 2, epochs: 3}}]", "epochs stands there twice"),
        ("title: x\ncells: []\ncells: [{name: a, recipe: r, sigma: 1}]", "cells stands there twice"),
        ("title: x\ncells: [{name: a, recipe: r, sigma: 1, published: .inf}]", "published"),
        (f"title: x\ncells: [{{name: {'a' * 300}, recipe: r, sigma: 1}}]", "at most 150"),
        ("title: x\ncells: [{name: λ, recipe: r, sigma: 1}, {name: σ, recipe: r, sigma: 1}]", "letters from A to Z"),
        ("title: x\ncells: [{name: a, recipe: r, sigma: 1, set: {seed: 2}}]", "seed is no setting"),
    ],
)
def test_what_is_no_study_is_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(StudyFileError, match=says) as error:
        read_study(tmp_path / "x.yaml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("STUDY = {", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("TABLE = {}", "STUDY"),
        ("import sys; sys.exit(0)", "SystemExit"),
    ],
)
def test_a_mistake_in_python_is_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "x.py").write_text(text)
    with pytest.raises(StudyFileError, match=says) as error:
        read_study(tmp_path / "x.py")
    assert "\n" not in str(error.value)


def reproduce(path: Path, folder: Path, *options: str) -> Result:
    return CliRunner().invoke(reproduce_app, [str(path), "--folder", str(folder), *options])


def said(done: Result) -> str:
    """The sentence that the command ended with."""
    assert done.exit_code == 1
    return str(done.exception)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("recipe: digits-gausian, set: {}", "did you mean digits-gaussian"),
        ("recipe: digits-gaussian, set: {model.hedas: 2}", "model.hedas"),
    ],
)
def test_a_mistake_in_the_last_cell_is_found_before_the_first_is_trained(tmp_path: Path, wrong: str, says: str) -> None:
    (tmp_path / "x.yaml").write_text(f"{HEADS}  - {{name: last, sigma: 0.25, {wrong}}}\n")
    assert says in said(reproduce(tmp_path / "x.yaml", tmp_path / "runs"))
    assert not list((tmp_path / "runs").iterdir())


def test_what_a_table_does_not_have_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(HEADS)
    for option, value in (("--sigma", "0.3"), ("--seed", "7"), ("--only", "three-heads")):
        assert value in said(reproduce(tmp_path / "x.yaml", tmp_path / "runs", option, value))


def test_a_study_called_digits_has_cells_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "digits.yaml").write_text(HEADS)
    ours = read_study(tmp_path / "digits.yaml").settings[0]
    assert ours.folder_name(0) == "digits-study-one-head-0.25-0"
    assert ours.noise(0, 1).startswith("digits-study/")


@pytest.mark.slow
def test_a_study_that_was_changed_does_not_show_old_figures(tmp_path: Path) -> None:
    one = "title: x\ncertify: {every: 100, n: 200, alpha: 0.01, radii: [0, 0.25]}\ncells:\n"
    one += "  - {name: one, recipe: digits-gaussian, sigma: 0.25, set: {epochs: 1}}\n"
    path, folder = tmp_path / "x.yaml", tmp_path / "runs"
    path.write_text(one)
    assert reproduce(path, folder).exit_code == 0
    certificates = next(folder.glob("*/certified-*.jsonl")).read_bytes()
    for before, now in (("n: 200", "n: 300"), ("epochs: 1", "epochs: 3"), ("every: 100", "every: 50")):
        path.write_text(one.replace(before, now))
        assert "begun for another study" in said(reproduce(path, folder))
        for theirs in (folder, folder / "results.json"):
            merged = reproduce(path, tmp_path / "other", "--minutes", "0", "--merge", str(theirs))
            assert "Left out x-one-0.25-0" in merged.output
    path.write_text(one.replace("[0, 0.25]", "[0.5, 0.25, 0]"))
    assert "| one | 1 of 1 |" in reproduce(path, folder, "--minutes", "0").output
    (cell,) = json.loads((folder / "results.json").read_text())["cells"]
    assert cell["radii"] == [0.5, 0.25, 0]
    assert cell["certified"] == sorted(cell["certified"])
    assert sorted(next(folder.glob("*/certified-*.jsonl")).read_bytes()) == sorted(certificates)
    figures = folder / "results.json"
    reproduce(path, tmp_path / "figures", "--minutes", "0", "--merge", str(figures))
    path.write_text(one)
    assert "no certificates to read these from" in said(reproduce(path, tmp_path / "figures"))


def test_what_is_no_studys_is_not_merged(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(HEADS)
    assert "no results.json" in said(reproduce(path, tmp_path / "runs", "--merge", str(path)))
    strange = tmp_path / "theirs" / "another-cell-0.25-0"
    strange.mkdir(parents=True)
    (strange / "cell.json").write_text("{}")
    done = reproduce(path, tmp_path / "runs", "--minutes", "0", "--merge", str(strange.parent))
    assert "Left out another-cell-0.25-0" in done.output
    assert not (tmp_path / "runs" / strange.name).exists()


@pytest.mark.parametrize(
    ("load", "says"), [(lambda: 1 / 0, "ZeroDivisionError"), (lambda: lambda _sigma: {}, "no TrainConfig")]
)
def test_a_recipe_of_a_package_that_is_none_is_one_sentence(load: Callable[[], object], says: str) -> None:
    point = SimpleNamespace(name="mine", dist=None, module="mine", load=load)
    with pytest.raises(RecipeError, match=says):
        _installed(point).make(0.25)  # pyright: ignore[reportArgumentType]


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
    assert "| one head | 1 of 1 |" in table
    assert "| two heads | 1 of 1 |" in table
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
    again = partial(
        subprocess.run,
        command,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert again().returncode == 0
    assert "| short | 1 of 1 |" in again().stdout, "a finished cell is shown again"
    (tmp_path / "mine.py").write_text((tmp_path / "mine.py").read_text().replace('"epochs": 1', '"epochs": 2'))
    refused = again()
    assert refused.returncode == 1
    assert "was begun for another study (epochs was 1 and is now 2)" in " ".join(refused.stderr.split())


def test_settings_that_both_know_decide_whether_a_cell_is_asked_for_alike() -> None:
    config = load_recipe("digits-spacte-gaussian", 0.25)
    setting = Setting("digits", "spacte-gaussian", 0.25, DIGITS)
    now = asked_of(setting, 0, config)
    changed = asked_of(setting, 0, override(config, {"objective.teaching": None}))
    assert "objective.teaching was {" in (difference(now, changed) or "")
    elsewhere = override(config, {"threads": 7, "validate_every": 3, "store": "bf16"})
    assert difference(now, asked_of(setting, 0, elsewhere)) is None
    later = {**now, "settings": {**now["settings"], "of a later version": True}}
    assert difference(now, later) is None
    assert difference(asked_of(setting, 0), now) is None, "kept before settings were"


def test_the_studies_of_the_docs_can_be_read(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    studies = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if block.startswith("title")]
    assert len(studies) == 2
    for number, study in enumerate(studies):
        (tmp_path / f"{number}.yaml").write_text(study)
        for setting in read_study(tmp_path / f"{number}.yaml").settings:
            override(load_recipe(setting.recipe, setting.sigma), dict(setting.changes))
