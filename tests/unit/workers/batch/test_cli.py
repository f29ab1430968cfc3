"""`spacte certify-dataset`: a data set in, NDJSON, TSV and a summary out, on the samplers of this process."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from spacte_workers.batch.cli import certify_dataset_app
from spacte_workers.engine import selection as choice
from spacte_workers.engine.self_checks import compare

pytestmark = pytest.mark.slow

SEED = "00112233445566778899aabbccddeeff"
IMAGES = 5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., str]) -> Path:
    folder = tmp_path_factory.mktemp("models") / "digits"
    make_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "set.npz"
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 1, 8, 8), dtype=np.uint8)
    np.savez(file, images=images, labels=np.arange(IMAGES))
    return file


def run(checkpoint: Path, data: Path | str, out: Path, *more: str) -> Result:
    command = [str(checkpoint), "--data", str(data), "--out", str(out), "--local", "--n", "400", "--seed", SEED]
    return CliRunner().invoke(certify_dataset_app, [*command, "--alpha", "0.01", *more])


def records(out: Path) -> dict[int, dict[str, Any]]:
    lines = (out / "results.ndjson").read_text().splitlines()
    found = {record["index"]: record for record in map(json.loads, lines)}
    assert len(found) == len(lines)
    return found


def test_every_image_in_three_files(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    result = run(checkpoint, data, tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    found = records(tmp_path / "out")
    assert sorted(found) == list(range(IMAGES))
    assert all(sum(record["counts"]) == 400 for record in found.values())

    rows = [line.split("\t") for line in (tmp_path / "out" / "results.tsv").read_text().splitlines()]
    assert rows[0] == ["idx", "label", "predict", "radius", "correct", "time"]
    assert [(int(row[0]), int(row[1]), int(row[2])) for row in rows[1:]] == [
        (index, index, found[index]["label"]) for index in range(IMAGES)
    ]

    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary == json.loads(result.stdout[result.stdout.index("{") :])
    abstained = sum(record["abstained"] for record in found.values())
    assert (summary["images"], summary["abstained"], summary["errored"]) == (IMAGES, abstained, 0)
    assert (summary["sigma"], summary["alpha"]) == (0.25, 0.01)
    correct = [record["radius"] if record["correct"] else 0.0 for record in found.values()]
    assert summary["acr"] == pytest.approx(np.mean(correct))
    at_zero = summary["certified_accuracy"][0]
    assert set(at_zero) == {"radius", "value", "low", "high"}
    assert at_zero["low"] <= at_zero["value"] <= at_zero["high"]


@pytest.mark.slow
def test_what_auto_may_choose(checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agreed = {"fp32": 1.0, "bf16": 0.95, "int8": 0.91}
    monkeypatch.setattr(
        choice, "compare", lambda form, *rows: replace(compare(form, *rows), agreement=agreed[form.precision])
    )
    monkeypatch.setattr(choice, "precision_rate", lambda name, *_: {"fp32": 1, "bf16": 2, "int8": 9}[name])
    for options, chosen in (
        ([], "fp32"),
        (["--min-agreement", ".9"], "bf16"),
        (["--min-agreement", ".9", "--allow-int8"], "int8"),
    ):
        out = tmp_path / chosen
        assert run(checkpoint, data, out, *options).exit_code == 0
        assert {record["precision"] for record in records(out).values()} == {chosen}
    assert "--min-agreement" in run(checkpoint, data, tmp_path / "none", "--min-agreement", "2").output


def test_what_may_be_claimed_of_all_images_together(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    from scipy.stats import binom

    run(checkpoint, data, tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    # Each certificate is false with probability at most alpha, and their noises are independent: but for a
    # probability of alpha, no more than so many are false; with one fewer that would not be so.
    most = summary["max_false"]
    assert binom.sf(most, IMAGES, 0.01) <= 0.01 < binom.sf(most - 1, IMAGES, 0.01)
    assert f"of these {IMAGES}" in summary["statement"]
    assert f"at most {most} are false with probability at least 0.99" in summary["statement"]


@pytest.mark.slow
def test_the_same_command_again_carries_on(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    run(checkpoint, data, whole)
    run(checkpoint, data, out)
    lines = (out / "results.ndjson").read_bytes().splitlines(keepends=True)
    (out / "results.ndjson").write_bytes(b"".join(lines[:2]) + lines[2][:20])
    result = run(checkpoint, data, out)
    assert result.exit_code == 0, result.output
    assert (out / "results.ndjson").read_bytes().startswith(b"".join(lines[:2]))
    for index, record in records(whole).items():
        assert records(out)[index]["counts"] == record["counts"]


def test_images_stopped_at_another_class_are_told_and_cost_nothing(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    assert run(checkpoint, data, tmp_path / "whole").exit_code == 0
    result = run(checkpoint, data, tmp_path / "out", "--stop-incorrect")
    assert result.exit_code == 0, result.output
    stopped = [record for record in records(tmp_path / "out").values() if record["stop_reason"] == "incorrect"]
    assert stopped
    assert f"abstained ({len(stopped)} stopped as incorrect), 0 errored" in result.stdout
    curves = [
        json.loads((tmp_path / name / "summary.json").read_text())["certified_accuracy"] for name in ("whole", "out")
    ]
    assert curves[0] == curves[1]


@pytest.mark.slow
def test_the_same_model_and_images_elsewhere_carry_on(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    out, moved = tmp_path / "out", tmp_path / "moved"
    run(checkpoint, data, out)
    lines = (out / "results.ndjson").read_bytes().splitlines(keepends=True)
    (out / "results.ndjson").write_bytes(lines[0])
    shutil.copytree(checkpoint, moved / checkpoint.name)
    shutil.copy(data, moved / "images.npz")
    result = run(moved / checkpoint.name, moved / "images.npz", out)
    assert result.exit_code == 0, result.output
    kept = [json.loads(line) for line in (out / "results.ndjson").read_bytes().splitlines()]
    before = [json.loads(line) for line in lines]
    assert {r["index"]: (r["id"], r["counts"]) for r in kept} == {r["index"]: (r["id"], r["counts"]) for r in before}
    spec = json.loads((out / "job.json").read_text())
    assert (spec["checkpoint"], spec["input"]["location"]) == (str(moved / checkpoint.name), str(moved / "images.npz"))
    other = moved / "other" / checkpoint.name
    shutil.copytree(checkpoint, other)
    weights = (other / "model.safetensors").read_bytes()
    (other / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    refused = run(other, data, out)
    assert refused.exit_code == 1
    assert "holds the results of another model" in str(refused.exception)


def test_another_command_is_kept_out_of_the_folder(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    run(checkpoint, data, tmp_path / "out")
    before = (tmp_path / "out" / "results.ndjson").read_bytes()
    refused = run(checkpoint, data, tmp_path / "out", "--bound", "two_class")
    assert refused.exit_code == 1
    assert (tmp_path / "out" / "results.ndjson").read_bytes() == before


@pytest.mark.parametrize("where", ["nowhere.npz", "folder:/nowhere"])
def test_data_that_is_not_there_makes_no_folder(checkpoint: Path, tmp_path: Path, where: str) -> None:
    result = run(checkpoint, where, tmp_path / "out")
    assert result.exit_code == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_set_that_lies_elsewhere_is_fetched_once(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    system = fsspec.filesystem("memory")
    system.pipe("/elsewhere/set.npz", data.read_bytes())
    here = run(checkpoint, data, tmp_path / "here")
    there = run(checkpoint, "memory://elsewhere/set.npz", tmp_path / "there")
    assert (here.exit_code, there.exit_code) == (0, 0), there.output
    counts = {index: record["counts"] for index, record in records(tmp_path / "here").items()}
    assert counts == {index: record["counts"] for index, record in records(tmp_path / "there").items()}
    system.rm("/elsewhere", recursive=True)
    assert run(checkpoint, "memory://elsewhere/set.npz", tmp_path / "there").exit_code == 0
    gone = run(checkpoint, "memory://elsewhere/set.npz", tmp_path / "new")
    assert gone.exit_code == 1
    assert "There is no file 'memory://elsewhere/set.npz'." in str(gone.exception)
    assert not (tmp_path / "new").exists()


def test_labels_that_no_model_has_are_never_wrong_answers(checkpoint: Path, tmp_path: Path) -> None:
    images = np.zeros((2, 1, 8, 8), np.uint8)
    np.savez(tmp_path / "hidden.npz", images=images, labels=np.array([-1, -1]))
    result = run(checkpoint, tmp_path / "hidden.npz", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "2 of 2 images have a label below 0" in result.stderr
    assert "2 of 2 images have no true class" in result.stdout
    assert "certified accuracy" not in result.stdout
    np.savez(tmp_path / "large.npz", images=images, labels=np.array([1, 108]))
    result = run(checkpoint, tmp_path / "large.npz", tmp_path / "none")
    assert (result.exit_code, (tmp_path / "none").exists()) == (1, False)
    assert "Row 1 has label 108" in str(result.exception)


def test_what_fails_for_every_image_fails_as_a_whole(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    result = run(checkpoint, data, tmp_path / "none", "--k-consensus", "9")
    assert (result.exit_code, (tmp_path / "none").exists()) == (1, False)
    assert "heads" in str(result.exception)
    np.savez(tmp_path / "grid.npz", images=np.full((2, 1, 8, 8), 0.3), labels=np.array([0, 1]))
    result = run(checkpoint, tmp_path / "grid.npz", tmp_path / "out")
    assert result.exit_code == 1
    assert "No image could be certified: Grid noise is for 8-bit images" in str(result.exception)


def test_results_are_bound_to_the_bytes_of_their_input(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    copy, out = tmp_path / "set.npz", tmp_path / "out"
    copy.write_bytes(data.read_bytes())
    assert run(checkpoint, copy, out).exit_code == 0
    assert {r["input_sha256"] for r in records(out).values()} == {hashlib.sha256(copy.read_bytes()).hexdigest()}
    lines = (out / "results.ndjson").read_bytes().splitlines(keepends=True)
    (out / "results.ndjson").write_bytes(lines[0])
    np.savez(copy, images=np.zeros((IMAGES, 1, 8, 8), np.uint8), labels=np.arange(IMAGES))
    refused = run(checkpoint, copy, out)
    assert (refused.exit_code, (out / "results.ndjson").read_bytes()) == (1, lines[0])
    assert "holds the results of another input" in str(refused.exception)
