"""Denoise, then classify (Salman et al. 2020): a denoiser before an untouched classifier, together one function."""

from typing import Literal, Self, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from .diffusion import DiffusionConfig
from .multihead import MultiHeadNet


class DenoiserConfig(BaseModel):
    """Which denoiser; the defaults have a quarter and half of a million weights for colour images."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["dncnn", "unet", "diffusion"]
    width: int = Field(default=64, ge=4, description="Channels of the first layer.")
    depth: int = Field(default=8, ge=3, description="Convolutions of a DnCNN.")
    diffusion: DiffusionConfig | None = Field(default=None, description="Of `diffusion`.")

    @model_validator(mode="after")
    def _diffusion_is_described(self) -> Self:
        if (self.kind == "diffusion") != (self.diffusion is not None):
            raise ValueError("`diffusion` has a diffusion model, and nothing else has one")
        return self

    def build(self, channels: int) -> nn.Module:
        """A fresh one for images of so many channels."""
        if self.diffusion is not None:
            return self.diffusion.build()
        return DnCnn(channels, self.width, self.depth) if self.kind == "dncnn" else SmallUNet(channels, self.width)


class DnCnn(nn.Module):
    """Estimates the noise and takes it off (Zhang et al. 2017): convolutions of one width with batch normalisation."""

    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        inner = [_block(width, width) for _ in range(depth - 2)]
        first, last = nn.Conv2d(channels, width, 3, padding=1), _last(width, channels)
        self.noise = nn.Sequential(first, nn.ReLU(), *inner, last)
        self.scale = _scale(width)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Pixels with less noise; not clipped."""
        return x_BCHW - self.scale * self.noise(x_BCHW)


class SmallUNet(nn.Module):
    """The same at two scales: half the resolution sees more of the image (after Ronneberger et al. 2015)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.into = nn.Sequential(_block(channels, width), _block(width, width))
        self.down = nn.Sequential(_block(width, 2 * width, stride=2), _block(2 * width, 2 * width))
        self.up = nn.Sequential(_block(2 * width, 2 * width), nn.Upsample(scale_factor=2), _block(2 * width, width))
        self.out = nn.Sequential(_block(2 * width, width), _last(width, channels))
        self.scale = _scale(width)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Pixels with less noise; not clipped. Height and width are even."""
        fine = self.into(x_BCHW)
        coarse = self.up(self.down(fine))
        return x_BCHW - self.scale * self.out(torch.cat([fine, coarse], dim=1))


class DenoisedBackbone(nn.Module):
    """A denoiser, then what a classifier does before its heads."""

    def __init__(self, denoiser: nn.Module, normalize: nn.Module, backbone: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.classifier = nn.Sequential(normalize, backbone)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The classifier's features of the denoised pixels."""
        return self.classifier(self.denoiser(x_BCHW))


class Denoised(MultiHeadNet):
    """A classifier that sees denoised pixels. Its own part has constant weights and is always in eval mode."""

    backbone: DenoisedBackbone

    def __init__(self, denoiser: nn.Module, classifier: MultiHeadNet) -> None:
        backbone = DenoisedBackbone(denoiser, classifier.normalize, classifier.backbone)
        super().__init__(nn.Identity(), backbone, classifier.heads)
        for part in (backbone.classifier, self.heads):
            part.requires_grad_(requires_grad=False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Put the denoiser into train mode, or all into eval mode."""
        super().train(mode)
        self.backbone.classifier.eval()
        self.heads.eval()
        return self

    def undenoised(self, x_BCHW: Tensor) -> list[Tensor]:
        """Logits_BK of every head as the classifier alone has them."""
        features = self.backbone.classifier(x_BCHW)
        return [head(features) for head in self.heads]


def _block(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, 3, padding=1, stride=stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())


def _last(width: int, channels: int) -> nn.Conv2d:
    """The convolution that estimates the noise; it begins with none, so that a fresh denoiser changes nothing."""
    convolution = nn.Conv2d(width, channels, 3, padding=1)
    nn.init.zeros_(convolution.weight)
    nn.init.zeros_(cast(Tensor, convolution.bias))
    return convolution


def _scale(width: int) -> float:
    """Of the last convolution's output: one over the root of its inputs, so that one rate trains any width."""
    return (9 * width) ** -0.5
