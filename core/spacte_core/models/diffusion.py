"""One step of a diffusion model as a denoiser (Carlini et al. 2023): its U-Net, at the time whose noise is ours."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from spacte_core.errors import optional_package

EXTRA = "diffusers"  # of spacte-workers

Prediction = Literal["epsilon", "sample", "v_prediction"]


class DiffusionConfig(BaseModel):
    """A U-Net, and the one time step that it is asked at."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    unet: dict[str, Any] = Field(description="Settings of a `UNet2DModel` of diffusers.")
    timestep: int = Field(ge=0, description="t, counted from 0.")
    alpha_bar: float = Field(gt=0, lt=1, description="Of the schedule at t: x_t = sqrt(abar) x_0 + sqrt(1 - abar) z.")
    prediction: Prediction = Field(default="epsilon", description="What the U-Net was trained to give.")
    clip: float | None = Field(default=None, gt=0, description="What x_0 is clipped to, in either direction.")

    def build(self) -> nn.Module:
        """A fresh one.

        Raises:
            MissingPackageError: diffusers is not installed.
        """
        return DiffusionDenoiser(self)


class DiffusionDenoiser(nn.Module):
    """Noisy pixels in [0, 1] -> the U-Net's estimate of the clean ones, in one step.

    Pixels are scaled to [-1, 1], where noise of sd sigma has sd 2 sigma, and by sqrt(abar), so that they look like x_t.
    """

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        diffusers = optional_package("diffusers", EXTRA)
        self.unet = diffusers.UNet2DModel.from_config(config.unet)
        self.config = config
        self.kept, self.noise = config.alpha_bar**0.5, (1 - config.alpha_bar) ** 0.5

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Pixels with less noise."""
        config = self.config
        scaled = (2 * x_BCHW - 1) * self.kept
        answer = self.unet(scaled, config.timestep, return_dict=False)[0]
        answer = answer[:, : x_BCHW.shape[1]]  # the others, if any, are a learned variance
        if config.prediction == "epsilon":
            clean = (scaled - self.noise * answer) / self.kept
        elif config.prediction == "v_prediction":
            clean = self.kept * scaled - self.noise * answer
        else:
            clean = answer
        if config.clip is not None:
            clean = clean.clamp(-config.clip, config.clip)
        return (clean + 1) / 2


def step_of(alphas_bar: Sequence[float], sigma: float) -> int:
    """The first time t with (1 - abar_t) / abar_t >= (2 sigma)^2 (Carlini et al. 2023, section 3).

    Args:
        alphas_bar: abar of each time, falling.
        sigma: noise sd in units of [0, 1] pixels; in [-1, 1] it is twice as large.

    Raises:
        ValueError: the schedule ends before there is so much noise.
    """
    for t, alpha_bar in enumerate(alphas_bar):
        if (1 - alpha_bar) >= (2 * sigma) ** 2 * alpha_bar:
            return t
    raise ValueError(f"the diffusion model was trained with less noise than sigma {sigma:g}")
