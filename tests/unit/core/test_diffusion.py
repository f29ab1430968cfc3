"""Promise: a diffusion model denoises in one step, at the time whose noise is sigma's, before a classifier."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from spacte_core.checkpoint import load_checkpoint
from spacte_core.cli import import_app
from spacte_core.models.diffusion import step_of

diffusers = pytest.importorskip("diffusers")

TINY = {
    "sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4, "attention_head_dim": 4,
}  # fmt: skip


def folder_of(path: Path, unet: dict | None = None, **scheduler: object) -> Path:
    """A folder as a pipeline of diffusers writes it."""
    torch.manual_seed(0)
    diffusers.UNet2DModel(**(TINY | (unet or {}))).save_pretrained(path / "unet")
    diffusers.DDPMScheduler(**scheduler).save_pretrained(path / "scheduler")
    return path


def imported(folder: Path, make_checkpoint, *options: str, sigma: str = "0.25", code: int = 0):
    make_checkpoint(folder / "digits")
    arguments = [f"diffusers:{folder / 'in'}", "--sigma", sigma, "--before", str(folder / "digits"), *options]
    result = CliRunner().invoke(import_app, [*arguments, "--out", str(folder / "out")])
    assert result.exit_code == code, result.output
    return " ".join(f"{result.output} {result.exception}".split())


@pytest.mark.parametrize(("sigma", "t"), [(0.12, 70), (0.25, 145), (0.5, 259), (1.0, 396)])
def test_the_time_of_a_noise(sigma: float, t: int) -> None:
    """DDPM's linear schedule, beta from .0001 to .02 in 1,000 steps, in double precision."""
    alphas_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    assert step_of(alphas_bar.tolist(), sigma) == t
    noise = np.sqrt((1 - alphas_bar) / alphas_bar) / 2
    assert noise[t - 1] < sigma <= noise[t]


def test_a_schedule_that_ends_too_early() -> None:
    with pytest.raises(ValueError, match="less noise"):
        step_of([0.99, 0.98], 1.0)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("clip", [True, False])
def test_it_is_the_scheduler_s_own_estimate(tmp_path: Path, make_checkpoint, prediction: str, clip: bool) -> None:
    folder_of(tmp_path / "in", prediction_type=prediction, clip_sample=clip)
    imported(tmp_path, make_checkpoint)
    found = load_checkpoint(tmp_path / "out")
    scheduler = diffusers.DDPMScheduler.from_pretrained(tmp_path / "in" / "scheduler")
    unet = diffusers.UNet2DModel.from_pretrained(tmp_path / "in" / "unet").eval()
    t = found.config.model.denoiser.diffusion.timestep
    x = torch.rand(5, 1, 8, 8) + 0.25 * torch.randn(5, 1, 8, 8)
    x_t = scheduler.alphas_cumprod[t] ** 0.5 * (2 * x - 1)
    with torch.no_grad():
        step = scheduler.step(unet(x_t, t).sample, t, x_t)
        clean = (step.pred_original_sample + 1) / 2
        assert torch.allclose(found.net.backbone.denoiser(x), clean, atol=1e-5)
        classifier = load_checkpoint(tmp_path / "digits").net
        for ours, alone in zip(found.net(x), classifier(clean), strict=True):
            assert torch.allclose(ours, alone, atol=1e-4)


def test_what_a_checkpoint_says_of_it(tmp_path: Path, make_checkpoint) -> None:
    folder_of(tmp_path / "in")
    told = imported(tmp_path, make_checkpoint, sigma="0.5")
    assert "denoised" in told
    config = load_checkpoint(tmp_path / "out").config
    assert (config.sigma, config.model.arch, config.model.heads) == (0.5, "denoised", 2)
    diffusion = config.model.denoiser.diffusion
    assert (1 - diffusion.alpha_bar) / diffusion.alpha_bar == pytest.approx(1, rel=0.02), "(2 sigma)^2"


@pytest.mark.parametrize(
    ("unet", "words"),
    [
        ({"in_channels": 3, "out_channels": 3}, "3 channels"),
        ({"sample_size": 16}, "16 x 16"),
        ({"num_class_embeds": 10}, "unconditional"),
    ],
)
def test_models_of_other_images(tmp_path: Path, make_checkpoint, unet: dict, words: str) -> None:
    folder_of(tmp_path / "in", unet)
    assert words in imported(tmp_path, make_checkpoint, code=1)


def test_what_is_missing(tmp_path: Path, make_checkpoint) -> None:
    (tmp_path / "in").mkdir()
    assert "unet" in imported(tmp_path, make_checkpoint, code=1)
    result = CliRunner().invoke(import_app, ["diffusers:x", "--sigma", "1", "--out", str(tmp_path / "y")])
    assert "--before" in str(result.exception)


def test_pickles_are_not_read(tmp_path: Path, make_checkpoint) -> None:
    folder = folder_of(tmp_path / "in")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffusers.UNet2DModel(**TINY).save_pretrained(folder / "unet", safe_serialization=False)
    assert json.loads((folder / "unet" / "config.json").read_text())["sample_size"] == 8
    assert "safetensors" in imported(tmp_path, make_checkpoint, code=1)


@pytest.mark.slow
def test_it_is_certified_as_one_function(tmp_path: Path, make_checkpoint) -> None:
    from spacte_workers import LocalCertifier
    from spacte_workers.certification.verify import replay
    from spacte_workers.images import from_array

    folder_of(tmp_path / "in")
    imported(tmp_path, make_checkpoint)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 8, 8), dtype=np.uint8)
    certificate = LocalCertifier(tmp_path / "out", device="cpu").certify(pixels, n0=20, n=200)
    again = LocalCertifier(tmp_path / "out", device="cpu").engine
    assert replay(certificate, again, from_array(pixels, input_shape=(1, 8, 8))) == []
