"""Promise: rows of a study are compared on the same images and seeds, and what cannot be paired is left out."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from spacte_client.analysis.pairs import mcnemar
from spacte_core.checkpoint import CheckpointConfig, save_checkpoint
from spacte_core.models import ModelConfig, build
from spacte_studies import cells, report
from spacte_studies.cells import Cell, Certified
from spacte_studies.merging import merge
from spacte_studies.pairing import paired
from spacte_studies.tables import DIGITS, Setting, Table

PROTOCOL = replace(DIGITS, radii=(0.0, 0.5))
FIRST, SECOND = (Setting("digits", name, 0.25, PROTOCOL) for name in ("gaussian", "spacte-gaussian"))
MODEL = ModelConfig(arch="digits_cnn", heads=1, num_classes=10, input_shape=(1, 8, 8))


def finish(folder: Path, setting: Setting, seed: int, radii: dict[int, float | None]) -> None:
    """A finished cell with a certificate an image; None: a wrong answer."""
    place = folder / setting.folder_name(seed)
    names = tuple(map(str, range(10)))
    config = CheckpointConfig(model=MODEL, class_names=names, sigma=0.25, method=setting.method)
    version = save_checkpoint(place, build(MODEL), config)
    lines = [{"index": i, "correct": radius is not None, "radius": radius or 0.3} for i, radius in radii.items()]
    done = {line["index"]: Certified(line | {"seconds": 1.0, "precision": "fp32"}) for line in lines}
    cells.write_certificates(cells.certificates_path(place, version), done)
    figures = (setting.method, 0.25, seed, len(radii), 0.1, (0.5, 0.1), 1.0, 1, 1.0, "fp32")
    cells.write_cell(place, Cell(*figures))


def test_a_row_beside_the_first(tmp_path: Path) -> None:
    finish(tmp_path, FIRST, 0, {0: 0.4, 1: 0.6, 2: None, 3: None})
    finish(tmp_path, SECOND, 0, {3: 0.6, 2: 0.2, 1: 0.6, 0: None})  # in another order
    said, _, headings, _, row = paired([FIRST, SECOND], (0, 1), tmp_path)
    assert said.startswith("Less gaussian")
    assert headings == "| method | seeds | ACR | r = 0 | r = 0.5 |"
    # differences -.4, 0, .2, .6: their mean .1, standard deviation .416; one image lost at 0 and two won
    assert row == (
        f"| spacte-gaussian | 1 | +0.100 (0.208, p = 0.63) | +25.0 (p = {mcnemar(2, 1):.2g}) | "
        f"+25.0 (p = {mcnemar(1, 0):.2g}) |"
    )


def test_seeds_are_averaged_by_image(tmp_path: Path) -> None:
    for seed, ours in ((0, {0: 0.4, 1: 0.4}), (1, {0: 0.2, 1: 0.6})):
        finish(tmp_path, FIRST, seed, {0: 0.2, 1: 0.2})
        finish(tmp_path, SECOND, seed, {**ours})
    *_, row = paired([FIRST, SECOND], (0, 1, 2), tmp_path)
    # by image .1 and .3; by seed .2 and .2
    assert row.startswith("| spacte-gaussian | 2 | +0.200 (0.100, p = 0.046, sd 0.000) | +0.0 (p = 1) | +25.0 (p = 1)")


def test_seeds_of_other_images_are_left_out(tmp_path: Path) -> None:
    """As where a folder has been merged with one of another protocol."""
    for seed, images in ((0, {0: 0.4, 1: 0.4}), (1, {0: 0.4}), (2, {0: 0.4, 1: 0.4})):
        for setting in (FIRST, SECOND):
            finish(tmp_path, setting, seed, {**images})
    *_, row = paired([FIRST, SECOND], (0, 1, 2), tmp_path)
    assert row.startswith("| spacte-gaussian | 2 | +0.000")


def test_figures_and_certificates_are_enough(tmp_path: Path) -> None:
    """As they are kept of a table that is published, without weights."""
    finish(tmp_path, FIRST, 0, {0: 0.4, 1: 0.6})
    finish(tmp_path, SECOND, 0, {0: 0.4, 1: None})
    whole = paired([FIRST, SECOND], (0,), tmp_path)
    for setting in (FIRST, SECOND):
        place = tmp_path / setting.folder_name(0)
        for path in place.iterdir():
            if path.name != cells.CELL_FILE and path.suffix != ".jsonl":
                path.unlink() if path.is_file() else shutil.rmtree(path)
    assert paired([FIRST, SECOND], (0,), tmp_path) == whole != []
    assert merge(tmp_path / "copy", tmp_path).taken == 2
    assert paired([FIRST, SECOND], (0,), tmp_path / "copy") == whole


def test_a_cell_kept_without_weights_has_figures_at_other_radii(tmp_path: Path) -> None:
    finish(tmp_path, FIRST, 0, {0: 0.4, 1: 0.6, 2: None, 3: 0.2})
    place = tmp_path / FIRST.folder_name(0)
    (place / "config.json").unlink()
    setting = replace(FIRST, protocol=replace(PROTOCOL, radii=(0.1, 0.3, 0.5)))
    cell = cells.finished(place, setting)
    assert cell is not None
    assert (cell.certified, cell.radii, cell.acr) == ((0.75, 0.5, 0.25), (0.1, 0.3, 0.5), 0.1)  # the ACR is kept
    text = report.markdown(Table("A table", (setting,), (0,)), tmp_path, "the command")
    assert "| gaussian | 1 of 1 | 0.100 |" in text
    (file,) = place.glob("certified-*.jsonl")
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:2]))  # not all are there
    assert cells.finished(place, setting) is None
    text = report.markdown(Table("A table", (setting,), (0,)), tmp_path, "the command")
    assert "| gaussian | 0 of 1 | not done: 2 images certified |" in text


@pytest.mark.parametrize("lacking", ["a cell", "certificates", "an image"])
def test_what_cannot_be_paired_is_left_out(tmp_path: Path, lacking: str) -> None:
    finish(tmp_path, FIRST, 0, {0: 0.4, 1: 0.4})
    if lacking != "a cell":
        finish(tmp_path, SECOND, 0, {0: 0.4} if lacking == "an image" else {0: 0.4, 1: 0.4})
    if lacking == "certificates":  # as after a merge of figures alone
        place = tmp_path / SECOND.folder_name(0)
        figures = (place / cells.CELL_FILE).read_bytes()
        shutil.rmtree(place)
        place.mkdir()
        (place / cells.CELL_FILE).write_bytes(figures)
    assert paired([FIRST, SECOND], (0,), tmp_path) == []


def test_the_table_has_both(tmp_path: Path) -> None:
    for setting in (FIRST, SECOND):
        finish(tmp_path, setting, 0, {0: 0.4, 1: 0.4})
    text = report.markdown(Table("A table", (FIRST, SECOND), (0,)), tmp_path, "the command")
    assert "| spacte-gaussian | 1 of 1 |" in text
    assert "| spacte-gaussian | 1 | +0.000 (0.000, p = 1) |" in text
