"""Promise: certificates carried over to another model are as true as those drawn from scratch, and cost fewer votes."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from scipy.stats import binomtest
from torch import nn
from typer.testing import CliRunner

from spacte_client.types import Certificate
from spacte_core.checkpoint import load_checkpoint, save_checkpoint
from spacte_core.data.digits import load_digits
from spacte_workers import LocalCertifier
from spacte_workers.batch.cli import certify_dataset_app
from spacte_workers.batch.recertify_cli import recertify_app
from spacte_workers.certification.carrying import PILOT, anew, enough_pairs
from spacte_workers.certification.verify import check
from spacte_workers.statistics.bounds import clopper_pearson_lower
from spacte_workers.statistics.disagreement import carried_lower


@pytest.mark.long
@pytest.mark.parametrize(("p", "zeta"), [(0.8, 0.0), (0.9, 0.004), (0.7, 0.02)])
def test_claims_are_false_no_oftener_than_alpha_whichever_way_is_chosen(p: float, zeta: float) -> None:
    """The worst new model, and the rule of the command: pilot, choice, then the carried or the fresh bound."""
    n, alpha, runs = 2_000, 0.2, 20_000
    generator = np.random.default_rng(3)
    false = carried = 0
    for _ in range(runs):
        successes = int(generator.binomial(n, p))
        certificate: Any = SimpleNamespace(counts=(successes, n - successes), label=0, n=n, alpha=alpha)
        pilot = int(generator.binomial(PILOT, zeta)), int(generator.binomial(PILOT, p - zeta))
        pairs = enough_pairs(certificate, *pilot, n, 0.1)
        if pairs:
            carried += 1
            bound = carried_lower(successes, n, int(generator.binomial(pairs, zeta)), pairs, alpha)
        else:
            bound = clopper_pearson_lower(int(generator.binomial(n, p - zeta)), n, anew(alpha))
        false += bool(bound > p - zeta)
    assert carried
    assert binomtest(false, runs, alpha, alternative="greater").pvalue > 1e-4


def _run(app: Any, *arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., str]) -> Path:
    """A finished job of fifteen digits, whose true classes are what the model answers."""
    folder = tmp_path_factory.mktemp("recertify")
    make_checkpoint(folder / "old", sigma=0.05)
    images = load_digits("test")[0][:15]
    certifier = LocalCertifier(folder / "old", precision="fp32")
    labels = [max(certifier.predict(image, n=200).label, 0) for image in images]
    np.savez(folder / "images.npz", images=images, labels=labels)
    done = _run(
        certify_dataset_app,
        *(folder / "old", "--data", folder / "images.npz", "--out", folder / "out", "--local"),
        *("-n", 4_000, "--alpha", 0.05, "--precision", "fp32"),
    )
    assert done.exit_code == 0, done.output
    return folder


@pytest.mark.slow
def test_the_same_model_keeps_its_radii_for_fewer_votes(job: Path) -> None:
    done = _run(
        recertify_app, job / "out", "--model", job / "old", "--precision", "fp32", "--loss", 0.1, "--json", "--gate"
    )
    assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    assert told["images"] == 15
    assert told["carried"] > 0
    before = {r["index"]: r for r in map(json.loads, (job / "out" / "results.ndjson").read_text().splitlines())}
    for record in map(json.loads, Path(told["file"]).read_text().splitlines()):
        if record["carried"]:
            assert record["carried"]["differences"] == 0
            assert record["label"] == before[record["index"]]["label"]
            assert 0 < record["radius"] <= before[record["index"]]["radius"]
            assert record["carried"]["certificate"] == before[record["index"]]["id"]
            assert record["votes"] < 4_000
        assert check(Certificate.model_validate(record)) == []


@pytest.mark.slow
def test_a_model_that_is_always_wrong_fails_the_gate(job: Path) -> None:
    checkpoint = load_checkpoint(job / "old")
    never = next(k for k in range(10) if k not in np.load(job / "images.npz")["labels"])
    for head in checkpoint.net.heads:
        [layer for layer in head.modules() if isinstance(layer, nn.Linear)][-1].bias.data[never] += 100.0
    save_checkpoint(job / "new", checkpoint.net, checkpoint.config)
    done = _run(recertify_app, job / "out", "--model", job / "new", "--precision", "fp32", "--gate", "--radius", 0)
    assert done.exit_code == 1


@pytest.mark.slow
def test_an_image_that_was_stopped_may_be_right_now(job: Path, tmp_path: Path) -> None:
    """All true classes but the first are others than the old model says; the new one says what the old one did."""
    labels = np.load(job / "images.npz")["labels"]
    wrong = np.where(np.arange(len(labels)) > 0, (labels + 1) % 10, labels)
    np.savez(tmp_path / "images.npz", images=np.load(job / "images.npz")["images"], labels=wrong)
    options = ("-n", 1_000, "--alpha", 0.05, "--precision", "fp32", "--stop-incorrect", "--local")
    done = _run(
        certify_dataset_app, job / "old", "--data", tmp_path / "images.npz", "--out", tmp_path / "out", *options
    )
    assert done.exit_code == 0, done.output
    again = _run(recertify_app, tmp_path / "out", "--model", job / "old", "--precision", "fp32", "--json")
    assert again.exit_code == 0, again.output
    found = {r["index"]: r for r in map(json.loads, Path(json.loads(again.output)["file"]).read_text().splitlines())}
    assert len(found) == 15
    for index, record in found.items():
        certificate = Certificate.model_validate(record)
        assert check(certificate) == []
        assert certificate.expected == wrong[index]
        assert (certificate.n == 0) == (certificate.stop_reason == "incorrect")
    assert sum(record["stop_reason"] == "incorrect" for record in found.values()) >= 10


@pytest.mark.slow
def test_what_does_not_fit_is_one_sentence(job: Path, tmp_path: Path, make_checkpoint: Callable[..., str]) -> None:
    make_checkpoint(tmp_path / "other", seed=7, sigma=0.05)
    done = _run(recertify_app, job / "out", "--model", job / "old", "--base", tmp_path / "other")
    assert done.exit_code == 1
    assert "--base" in str(done.exception)
    done = _run(recertify_app, tmp_path, "--model", job / "old")
    assert done.exit_code == 1
    assert "holds no job" in str(done.exception)
