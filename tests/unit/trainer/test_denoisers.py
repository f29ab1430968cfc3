"""Promise: a denoiser is trained before a classifier that stays as it is; both together are one certified function."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from spacte_core.checkpoint import load_checkpoint
from spacte_core.data import DataConfig, load_data
from spacte_core.models.denoisers import DenoiserConfig
from spacte_trainer.cli.train import train_app
from spacte_trainer.evaluation import accuracy

pytestmark = pytest.mark.slow

OPTIONS = ("--data", "digits", "--sigma", "0.5", "--set", "threads=1", "--set", "precision=float32", "--device", "cpu")


def train(*arguments: str) -> Any:
    return CliRunner().invoke(train_app, [*arguments, *OPTIONS])


def noisy(net: Any) -> float:
    data = load_data(DataConfig(source="digits"), "test")
    return accuracy(net, data, torch.device("cpu"), sigma=0.5).ensemble


def noise_left(net: Any) -> float:
    """Mean square of what a denoiser leaves of the noise, as part of the noise's own."""
    data = load_data(DataConfig(source="digits"), "test")
    clean = next(iter(data.batches([torch.arange(300)], torch.device("cpu")))).x_BCHW
    noise = 0.5 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return float((net.backbone.denoiser(clean + noise) - clean).square().mean()) / 0.25


@pytest.mark.parametrize("recipe", ["denoiser-dncnn", "denoiser-unet-stability"])
def test_it_takes_noise_off_and_the_classifier_is_as_before(recipe: str, imported: Path, tmp_path: Path) -> None:
    small = (
        "--set",
        "model.denoiser.width=16",
        "--set",
        "model.denoiser.depth=4",
        "--epochs",
        "12",
        "--set",
        "batch=32",
    )
    result = train(recipe, "--init", str(imported), "--out", str(tmp_path / "m"), *small)
    assert result.exit_code == 0, (result.output, result.exception)
    before, after = load_checkpoint(imported), load_checkpoint(tmp_path / "m")
    assert after.config.model.arch == "denoised"
    x = torch.rand(5, 1, 8, 8)
    assert torch.equal(after.net.undenoised(x)[0], before.net(x)[0])
    assert torch.equal(after.net(x)[0], before.net(after.net.backbone.denoiser(x))[0])
    assert noisy(after.net) > noisy(before.net) + 0.03
    assert recipe.endswith("stability") or noise_left(after.net) < 0.25


def test_a_certificate_of_both_together(make_checkpoint: Any, tmp_path: Path) -> None:
    """The classifier is one of ours, with batch statistics and two heads, which stay, too."""
    from spacte_workers import LocalCertifier

    make_checkpoint(tmp_path / "two")
    result = train("denoiser-dncnn", "--init", str(tmp_path / "two"), "--out", str(tmp_path / "m"), "--epochs", "1")
    assert result.exit_code == 0, (result.output, result.exception)
    x = torch.rand(5, 1, 8, 8)
    before, after = load_checkpoint(tmp_path / "two").net, load_checkpoint(tmp_path / "m").net
    assert all(torch.equal(a, b) for a, b in zip(after.undenoised(x), before(x), strict=True))
    certifier = LocalCertifier(tmp_path / "m", device="cpu")
    certificate = certifier.certify(np.zeros((1, 8, 8), np.uint8), n0=20, n=200)
    assert (certificate.sigma, sum(certificate.counts)) == (0.5, 200)


@pytest.mark.parametrize(("kind", "width"), [("dncnn", 64), ("unet", 48)])
def test_a_denoiser_is_small_and_keeps_the_shape(kind: Any, width: int) -> None:
    net = DenoiserConfig(kind=kind, width=width).build(3)
    assert sum(p.numel() for p in net.parameters()) < 1_000_000
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 3, 32, 32)


def test_what_cannot_be_trained_is_one_sentence(imported: Path, tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "x"))
    assert "--init" in str(CliRunner().invoke(train_app, ["denoiser-dncnn", *out]).exception)
    without = CliRunner().invoke(train_app, ["denoiser-dncnn", "--init", str(imported), *out])
    assert "--data and --sigma" in str(without.exception)
