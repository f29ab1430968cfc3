"""A study goes on where it stopped, on any machine, and its table says what is missing."""

import io
import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from spacte_client.analysis.logs import read_log
from spacte_client.analysis.recertified import recertified
from spacte_core.locks import LOCK_FILE, folder_lock
from spacte_studies import cells, merging, report
from spacte_studies.cells import Certified
from spacte_studies.cli import reproduce_app
from spacte_studies.study import Study, TimeIsUpError, TimeSlice, evenly
from spacte_studies.tables import DIGITS, PUBLISHED_ACR, TABLES, Setting, Table
from spacte_trainer.config import TrainConfig
from spacte_trainer.recipes import load_recipe
from spacte_trainer.runs import TRAINING
from spacte_trainer.state import STATE_FILE, StateError
from spacte_workers.engine import EngineError

pytestmark = pytest.mark.slow

SMALL = replace(DIGITS, every=80, n=200)
"""Five of the 397 held-out digits."""

SETTING = Setting("digits", "gaussian", 0.25, SMALL, published_acr=0.5)
TABLE = Table("A table", (SETTING, Setting("digits", "spacte-gaussian", 0.25, SMALL)), (0,))


def study(folder: Path, **changes: object) -> Study:
    """Two cells of two epochs each."""
    console = Console(file=io.StringIO())
    given = {"epochs": 2, "batch": 700, **changes}
    return Study(TABLE, folder, torch.device("cpu"), console, changes=given)


class Stopping(TimeSlice):
    """A slice that is over after so many looks at the clock."""

    def __init__(self, looks: int) -> None:
        super().__init__(time.monotonic() + 3600)
        self.looks = looks

    def check(self) -> None:
        self.looks -= 1
        if self.looks < 0:
            raise TimeIsUpError


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    study(folder).work(TimeSlice(time.monotonic() + 3600))
    return folder


def figures(place: Path) -> dict[str, object]:
    """A cell without its seconds, which differ from run to run."""
    cell = cells.read_cell(place)
    assert cell is not None
    return {key: value for key, value in asdict(cell).items() if "seconds" not in key}


@pytest.mark.slow
def test_slices_come_to_what_one_run_comes_to(whole: Path, tmp_path: Path) -> None:
    slices = 0
    while True:
        slices += 1
        try:
            study(tmp_path).work(Stopping(looks=4))
            break
        except TimeIsUpError:
            continue
    assert slices > 3
    for setting in TABLE.settings:
        assert figures(tmp_path / setting.folder_name(0)) == figures(whole / setting.folder_name(0))


def test_an_epoch_that_does_not_fit_is_not_begun() -> None:
    time_slice = TimeSlice(time.monotonic() + 100, epoch_seconds=1000)
    with pytest.raises(TimeIsUpError):
        time_slice.on_batch_end(2, 1, 10, None)  # pyright: ignore[reportArgumentType]
    TimeSlice(time.monotonic() + 100, epoch_seconds=10).on_batch_end(2, 1, 10, None)  # pyright: ignore[reportArgumentType]


def test_slices_of_several_machines_merge(whole: Path, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    first, second = (setting.folder_name(0) for setting in TABLE.settings)
    for folder, cell in ((ours, first), (theirs, second)):
        shutil.copytree(whole / cell, folder / cell)
    # Here three images of the first cell are certified, there two others.
    shutil.copytree(whole / first, theirs / first)
    file = cells.certificates_file(ours / first)
    assert file is not None
    all_of_them = cells.read_certificates(file)
    for folder, kept in ((ours, (0, 80, 160)), (theirs, (240, 320))):
        (folder / first / cells.CELL_FILE).unlink()
        cells.write_certificates(folder / first / file.name, {i: all_of_them[i] for i in kept})

    assert merging.merge(ours, theirs).taken == 2
    assert merging.merge(ours, theirs).taken == 0, "nothing is further there any more"
    assert set(cells.read_certificates(file)) == set(all_of_them)
    study(ours).work(Stopping(looks=1))  # nothing is left to train or to certify
    for cell in (first, second):
        assert figures(ours / cell) == figures(whole / cell)


def test_a_run_that_is_further_elsewhere_is_taken(whole: Path, tmp_path: Path) -> None:
    ours, theirs, place = tmp_path / "ours", tmp_path / "theirs", SETTING.folder_name(0)
    for folder, looks in ((ours, 3), (theirs, 5)):
        with pytest.raises(TimeIsUpError):
            study(folder).work(Stopping(looks))
        assert (folder / place / TRAINING / STATE_FILE).exists() == (looks == 3)
    assert merging.merge(ours, theirs).taken == 1
    assert merging.progress(ours / place) == merging.progress(theirs / place)
    assert merging.merge(whole_copy := Path(shutil.copytree(whole, tmp_path / "copy")), ours).taken == 0
    assert figures(whole_copy / place) == figures(whole / place)


def test_figures_alone_are_taken_too(whole: Path, tmp_path: Path) -> None:
    results = report.write(TABLE, whole, "the command").with_suffix(".json")
    first, second = tmp_path / "first", tmp_path / "second"
    assert merging.merge(first, results).taken == 2
    assert merging.merge(first, results).taken == 0
    assert merging.merge(second, first).taken == 2, "from a folder that has no more than figures"
    assert merging.merge(second, whole).taken == 2, "which a checkpoint and its certificates are further than"
    assert merging.merge(second, first).taken == 0
    figures_alone, with_certificates = (report.markdown(TABLE, folder, "the command") for folder in (first, whole))
    assert with_certificates.startswith(figures_alone.rstrip("\n"))
    assert "Less gaussian" in with_certificates.removeprefix(figures_alone.rstrip("\n"))
    study(first).work(Stopping(looks=1))  # nothing is left to do


def test_a_cell_that_another_process_works_on_is_left_to_it(whole: Path, tmp_path: Path) -> None:
    first, second = ((setting, 0) for setting in TABLE.settings)
    shutil.copytree(whole / SETTING.folder_name(0), tmp_path / SETTING.folder_name(0))
    (tmp_path / SETTING.folder_name(0) / cells.CELL_FILE).unlink()
    place = tmp_path / second[0].folder_name(0)
    ours = study(tmp_path)
    with folder_lock(place):
        ours.work(TimeSlice(time.monotonic() + 3600))
    assert ours.elsewhere == [second]
    assert cells.read_cell(tmp_path / first[0].folder_name(0)) is not None
    assert cells.read_cell(place) is None


def test_two_studies_at_once_in_a_folder_share_the_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cell is trained twice, and none is forgotten: each is taken by one and left out by the other, or seen done."""
    trained: list[str] = []
    meeting = threading.Barrier(2)

    def train(config: TrainConfig, folder: Path, **_options: object) -> None:
        trained.append(folder.name)
        meeting.wait(timeout=60)  # until the other one is at work as well
        raise TimeIsUpError

    monkeypatch.setattr("spacte_studies.study.run", train)

    def work() -> None:
        with pytest.raises(TimeIsUpError):
            study(tmp_path).work(TimeSlice(time.monotonic() + 3600))

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work) for _ in range(2)]:
            done.result()
    assert sorted(trained) == sorted(setting.folder_name(0) for setting in TABLE.settings)


def test_merging_leaves_a_cell_at_work_alone(whole: Path, tmp_path: Path) -> None:
    """Neither a folder nor its lock is pulled away below a process that works there."""
    first, second = (setting.folder_name(0) for setting in TABLE.settings)
    begun = tmp_path / first / TRAINING
    begun.mkdir(parents=True)
    (begun / STATE_FILE).write_bytes(b"ours")
    with folder_lock(tmp_path / first):
        merged = merging.merge(tmp_path, whole)
        assert (merged.taken, merged.busy) == (1, [first])
        assert (begun / STATE_FILE).read_bytes() == b"ours"
        figures_of = report.write(TABLE, whole, "the command").with_suffix(".json")
        assert merging.merge(tmp_path, figures_of).busy == [first]
        assert cells.read_cell(tmp_path / first) is None
    lock = (tmp_path / first / LOCK_FILE).stat().st_ino
    assert merging.merge(tmp_path, whole).taken == 1
    assert (tmp_path / first / LOCK_FILE).stat().st_ino == lock
    for cell in (first, second):
        assert figures(tmp_path / cell) == figures(whole / cell)


@pytest.mark.usefixtures("bf16_anywhere")
def test_a_cell_keeps_the_precision_that_it_was_begun_at(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "theirs"
    for folder in (theirs, tmp_path / "ours"):
        place = Path(shutil.copytree(whole / SETTING.folder_name(0), folder / SETTING.folder_name(0)))
    file = cells.certificates_file(place)
    assert file is not None
    every = cells.read_certificates(file)
    assert {one.precision for one in every.values()} == {cells.precision_of(every.values())} <= {"bf16", "fp32"}
    other = "fp32" if cells.precision_of(every.values()) == "bf16" else "bf16"
    (place / cells.CELL_FILE).unlink()
    cells.write_certificates(file, {0: Certified({**every[0].record, "precision": other})})
    assert merging.merge(tmp_path / "ours", theirs).taken == 0, "whose certificates are of another function"
    assert cells.read_cell(place) is None
    one = study(tmp_path / "ours")
    one.wanted = lambda setting, _seed: setting is SETTING
    with monkeypatch.context() as elsewhere:

        def cannot(*_given: object, **_options: object) -> None:
            raise EngineError("no such arithmetic")

        elsewhere.setattr("spacte_studies.study.LocalCertifier", cannot)
        with pytest.raises(StateError, match=f"begun at precision {other}, which cannot be had here"):
            one.work(TimeSlice(time.monotonic() + 3600))
    one.work(TimeSlice(time.monotonic() + 3600))
    assert {line.precision for line in cells.read_certificates(file).values()} == {other}
    assert figures(place)["precision"] == other
    names = ("index", "correct", "radius", "seconds")
    old = [{name: getattr(line, name) for name in names} for line in every.values()]
    file.write_text("".join(json.dumps(line) + "\n" for line in old))
    assert set(cells.read_certificates(file)) == set(every), "folders of before it was kept are read"
    assert cells.precision_of(cells.read_certificates(file).values()) == "auto"
    assert merging.merge(tmp_path / "ours", theirs).taken == 0


def test_certificates_are_records_that_other_reports_read(whole: Path) -> None:
    """With their votes, so that they can be certified again at another alpha."""
    file = cells.certificates_file(whole / SETTING.folder_name(0))
    assert file is not None
    run, every = read_log(file), cells.read_certificates(file)
    cell = cells.read_cell(whole / SETTING.folder_name(0))
    assert cell is not None
    assert run.acr == pytest.approx(cell.acr)
    assert {row.index: row.correct for row in run.rows} == {index: one.correct for index, one in every.items()}
    assert all(one.seconds > 0 for one in every.values())
    again = recertified(run, alpha=0.01)
    assert all(after.radius >= before.radius for before, after in zip(run.rows, again.rows, strict=True))
    assert again.acr > run.acr


def test_a_slice_that_came_to_nothing_says_so(tmp_path: Path) -> None:
    """The same command would begin at the same place for ever."""
    options = ["digits", "--folder", str(tmp_path), "--minutes", "1e-9"]
    found = CliRunner().invoke(reproduce_app, options)
    assert "no epoch and no certificate" in found.output
    assert "more than --minutes 1e-09" in found.output
    assert "the same command goes on from here" not in found.output


def test_a_slice_counts_what_the_next_one_goes_on_from(tmp_path: Path) -> None:
    ours = study(tmp_path)
    slices = [Stopping(looks=1), Stopping(looks=3), Stopping(looks=4)]
    for slice_ in slices:
        with pytest.raises(TimeIsUpError):
            ours.work(slice_)
    assert [slice_.finished for slice_ in slices] == [0, 1, 2]


def test_images_that_are_done_lie_evenly_over_all() -> None:
    chosen = range(0, 10_000, 20)
    order = evenly(chosen)
    assert sorted(order) == list(chosen)
    for done in (50, 100, 333):
        quarters = [sum(low <= i < low + 2_500 for i in order[:done]) for low in range(0, 10_000, 2_500)]
        assert max(quarters) - min(quarters) <= 12


def test_a_line_cut_short_is_certified_again(whole: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(whole / SETTING.folder_name(0), tmp_path / SETTING.folder_name(0)))
    file = cells.certificates_file(place)
    assert file is not None
    text = file.read_text()
    file.write_text(text[:-9])
    (place / cells.CELL_FILE).unlink()
    assert len(cells.read_certificates(file)) == 4
    one = study(tmp_path)
    one.wanted = lambda setting, _seed: setting is SETTING
    one.work(TimeSlice(time.monotonic() + 3600))
    assert figures(place) == figures(whole / SETTING.folder_name(0))


def test_the_table_shows_ours_beside_the_published(whole: Path, tmp_path: Path) -> None:
    text = report.markdown(TABLE, whole, "the command")
    cell = cells.read_cell(whole / SETTING.folder_name(0))
    assert cell is not None
    row = next(line for line in text.splitlines() if line.startswith("| gaussian"))
    assert f"| 1 of 1 | {cell.acr:.3f} | 0.500 | {100 * cell.certified[0]:.1f} [" in row
    assert report.UNPUBLISHED in text
    assert "not run" in report.markdown(TABLE, tmp_path, "")
    with pytest.raises(TimeIsUpError):
        study(tmp_path).work(Stopping(looks=6))
    begun = report.markdown(TABLE, tmp_path, "")
    file = cells.certificates_file(tmp_path / SETTING.folder_name(0))
    assert file is not None
    some = list(cells.read_certificates(file).values())
    acr = sum(one.correct * one.radius for one in some) / len(some)
    assert 0 < len(some) < 5, "the slice was to end while images were being certified"
    assert f"| 0 of 1 (not done: {len(some)} images certified) | {acr:.3f} |" in begun
    results = report.write(TABLE, whole, "the command")
    assert len(json.loads(results.with_suffix(".json").read_text())["cells"]) == 2


def test_every_table_can_be_run() -> None:
    for make in TABLES.values():
        for network in ("resnet110", "resnet20", "fast"):
            table = make(network)
            for setting in table.settings:
                config = load_recipe(setting.recipe, setting.sigma)
                assert (config.method, config.sigma) == (setting.method, setting.sigma)
            assert len({setting.folder_name(0) for setting in table.settings}) == len(table.settings)
    assert len(PUBLISHED_ACR) == len(TABLES["spacte-cifar10"]("resnet110").settings) == 9


def test_the_command_shows_a_table_without_working_on_it(tmp_path: Path) -> None:
    found = CliRunner().invoke(reproduce_app, ["digits", "--folder", str(tmp_path), "--minutes", "0"])
    assert found.exit_code == 0, found.output
    assert found.output.count("not run") == 24
    assert (tmp_path / "results.md").read_text().startswith("# Every method")
    wrong = CliRunner().invoke(reproduce_app, ["digits", "--folder", str(tmp_path), "--only", "nothing"])
    assert wrong.exit_code != 0
    assert not list(tmp_path.glob("*/" + TRAINING))


def test_the_name_of_an_images_noise_stays() -> None:
    """It is part of the study: a slice that drew other noises would not continue the ones before it."""
    assert SETTING.noise(0, 80) == "digits-methods/gaussian/0.25/0/80"
