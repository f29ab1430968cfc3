"""Promise: where the processor has no instructions for bf16, asking for it ends with one sentence and the remedy.

Whether this machine has them is replaced, so that the tests hold on every machine.
"""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path

import httpx2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner, Result

from spacte_core.hardware import computes_bf16, has_bf16
from spacte_service import Settings, create_app
from spacte_service.cli.serve import serve_app
from spacte_trainer.bench.command import bench_train_app
from spacte_trainer.cli.train import train_app
from spacte_workers import EngineError, LocalCertifier
from spacte_workers.batch.cli import certify_dataset_app
from spacte_workers.bench import engine as bench
from spacte_workers.engine.selection import not_computed
from spacte_workers.serving.pools import LocalPool
from spacte_workers.serving.runtime import Runtime

REASON = "bf16 needs instructions that this machine's processor lacks (AVX-512, AVX-NE-CONVERT or AMX)"
VOTES = f"{REASON}: use precision 'auto' or 'fp32'."
TRAINING = f"{REASON}: leave precision at auto, or set precision=float32."
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("spacte_workers.engine.selection", "spacte_trainer.config"):
        monkeypatch.setattr(f"{module}.computes_bf16", lambda _: False)
    for module in ("spacte_workers.engine.selection", "spacte_trainer.config", "spacte_core.kernels.rates"):
        monkeypatch.setattr(f"{module}.has_bf16", lambda _: False)


def refused(result: Result) -> str:
    """What the command line prints after `Error: `; the status is 1."""
    assert result.exit_code == 1
    return str(result.exception)


def test_what_pays_is_there() -> None:
    assert computes_bf16(CPU) or not has_bf16(CPU)


def test_the_library() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    shape = {"sigma": 0.25, "num_classes": 3, "input_shape": (1, 8, 8), "device": "cpu"}
    with pytest.raises(EngineError) as caught:
        LocalCertifier(net, precision="bf16", **shape)
    assert str(caught.value) == VOTES
    assert LocalCertifier(net, **shape).engine.precision == "fp32"


def test_a_job_on_this_machine_leaves_no_folder(tmp_path: Path, make_checkpoint: Callable[..., str]) -> None:
    make_checkpoint(tmp_path / "digits")
    np.savez(tmp_path / "set.npz", images=np.zeros((1, 1, 8, 8), np.uint8), labels=[0])
    command = [tmp_path / "digits", "--data", tmp_path / "set.npz", "--out", tmp_path / "out", "--local"]
    result = CliRunner().invoke(certify_dataset_app, [*map(str, command), "--precision", "bf16"])
    assert refused(result) == VOTES
    assert not (tmp_path / "out").exists()


def test_a_server_that_draws_itself_does_not_start(tmp_path: Path, make_checkpoint: Callable[..., str]) -> None:
    make_checkpoint(tmp_path / "models" / "digits")
    folders = ["--models", str(tmp_path / "models"), "--data-dir", str(tmp_path / "data"), "--port", "0"]
    result = CliRunner().invoke(serve_app, [*folders, "--in-process", "--precision", "bf16"])
    assert refused(result) == VOTES


async def test_a_request_is_told_why_its_model_failed(tmp_path: Path, make_checkpoint: Callable[..., str]) -> None:
    """As on a cluster, of which the gateway learns only from a sampler what its processors have."""
    make_checkpoint(tmp_path / "digits")
    runtime = Runtime(tmp_path, LocalPool(1), precision="bf16")
    await runtime.start()
    transport = httpx2.ASGITransport(app=create_app(Settings(data_dir=tmp_path / "data"), runtime))
    async with httpx2.AsyncClient(transport=transport, base_url="http://testserver") as http:
        (model,) = (await http.get("/v1/models")).json()["data"]
        file = io.BytesIO()
        Image.new("L", (8, 8)).save(file, "PNG")
        image = {"type": "base64", "data": base64.b64encode(file.getvalue()).decode()}
        answer = await http.post("/v1/certify", json={"model": "digits", "image": image})
    await runtime.stop()
    assert (model["state"], model["precision"]) == ("failed", None)
    assert model["reason"].endswith(VOTES)
    assert (answer.status_code, answer.json()["code"]) == (409, "model_failed")
    assert answer.json()["detail"].endswith(VOTES)


def test_training(tmp_path: Path) -> None:
    settings = ["digits-gaussian", "--set", "precision=bf16", "--device", "cpu"]
    result = CliRunner().invoke(train_app, [*settings, "--out", str(tmp_path / "run")])
    assert refused(result) == TRAINING
    assert not (tmp_path / "run").exists()
    assert refused(CliRunner().invoke(bench_train_app, settings)) == TRAINING


def test_a_benchmark_of_bf16() -> None:
    for asked in ("bf16", "fp32,bf16"):
        result = CliRunner().invoke(bench.bench_engine_app, ["--precision", asked, "--device", "cpu"])
        assert refused(result) == f"{REASON}: use --precision all, auto or fp32."


@pytest.mark.slow
def test_a_benchmark_of_all_says_what_it_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["--arch", "digits_cnn", "--heads", "1", "--precision", "all", "--device", "cpu", "--batch", "64"]
    command += ["--rounds", "5", "--seconds", "0.01"]
    monkeypatch.setattr("spacte_workers.engine.peak_rates._products", few_products)
    result = CliRunner().invoke(bench.bench_engine_app, [*command, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [row["precision"] for row in found["precisions"]] == ["fp32", "int8"]
    assert found["left_out"] == {"bf16": REASON}
    table = bench._table(found)
    assert table.splitlines()[-1] == f"bf16 is left out: {REASON}."
    assert len(table.splitlines()) == 6


def few_products(*_given: object) -> list[tuple[Callable[[], object], int]]:
    """One small product in the place of those whose rate is the ceiling."""
    x = torch.ones(64, 64)
    return [(lambda: x @ x, 64**3)]


def test_int8_has_reasons_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not_computed("int8", torch.device("cuda")) == "int8 is computed on CPUs alone"
    assert not_computed("int8", CPU) is None
    monkeypatch.setenv("SPACTE_KERNELS", "off")
    assert not_computed("int8", CPU) == "int8 is computed by kernels that are switched off here"
