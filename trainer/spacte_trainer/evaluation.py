"""Clean and noisy accuracy of every head and of all heads together, and how often the heads disagree."""

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from spacte_core.data.base import DataError, ImageData, in_order, stream
from spacte_core.models import ModelConfig, MultiHeadNet

from .objectives import SeededDraws

BATCH = 1_000
"""Images a forward pass; chosen: it divides CIFAR-10's and ImageNet's test sets. Noise draws depend on it."""


class Accuracy(BaseModel, frozen=True):
    """What the heads make of one kind of input; all figures are shares in [0, 1]."""

    heads: tuple[float, ...] = Field(description="Of right answers, by head.")
    ensemble: float = Field(description="Of right answers of the summed logits, which is what is certified.")
    disagreement: float = Field(
        description="Of inputs on which two heads answer differently, averaged over all pairs of heads."
    )


class Evaluation(BaseModel, frozen=True):
    """Accuracy on a data set, without noise and with."""

    images: int
    sigma: float
    noise_draws: int = Field(description="Noise draws an image behind `noisy`.")
    clean: Accuracy
    noisy: Accuracy


class AccuracyCounts:
    """Counts on the device, read once at the end."""

    def __init__(self, heads: int, device: torch.device) -> None:
        self.right_L = torch.zeros(heads, dtype=torch.int64, device=device)
        self.right, self.differ = torch.zeros(2, dtype=torch.int64, device=device)
        self.inputs = 0

    def add(self, z_LBK: Tensor, y_B: Tensor) -> None:
        """Count one batch of head logits."""
        answers_LB = z_LBK.argmax(dim=2)
        self.right_L += (answers_LB == y_B).sum(dim=1)
        self.right += (z_LBK.sum(dim=0).argmax(dim=1) == y_B).sum()
        self.differ += (answers_LB[:, None] != answers_LB[None]).sum()
        self.inputs += len(y_B)

    def accuracy(self) -> Accuracy:
        """The shares; one head disagrees with none."""
        heads = len(self.right_L)
        pairs = max(1, heads * (heads - 1))
        return Accuracy(
            heads=tuple((self.right_L / self.inputs).tolist()),
            ensemble=self.right.item() / self.inputs,
            disagreement=self.differ.item() / (pairs * self.inputs),
        )


@torch.inference_mode()
def accuracy(
    net: MultiHeadNet,
    data: ImageData,
    device: torch.device,
    *,
    sigma: float = 0.0,
    draws: int = 1,
    seed: int = 0,
    epoch: int = 0,
) -> Accuracy:
    """One pass over `data` in its own order, in eval mode; the net's mode is put back.

    With sigma > 0 every image is seen under `draws` noises N(0, sigma^2 I), not clipped, which depend on
    `seed`, `epoch` and `device` alone.
    """
    noise = SeededDraws(stream(seed, epoch=epoch, purpose="evaluate", device=device), device)
    training = net.training
    net.eval()
    counts = AccuracyCounts(len(net.heads), device)
    for batch in data.batches(in_order(len(data), BATCH), device):
        for _ in range(draws):
            x_BCHW = batch.x_BCHW + sigma * noise.normal(batch.x_BCHW.shape) if sigma else batch.x_BCHW
            z_LBK = torch.stack(net(x_BCHW)).float()
            counts.add(z_LBK, batch.y_B)
    net.train(training)
    return counts.accuracy()


def evaluate(
    net: MultiHeadNet, data: ImageData, device: torch.device, *, sigma: float, draws: int = 1, seed: int = 0
) -> Evaluation:
    """Clean accuracy, and noisy accuracy over `draws` noises an image."""
    return Evaluation(
        images=len(data),
        sigma=sigma,
        noise_draws=draws,
        clean=accuracy(net, data, device),
        noisy=accuracy(net, data, device, sigma=sigma, draws=draws, seed=seed),
    )


def check_fit(model: ModelConfig, data: ImageData) -> None:
    """Raise DataError where a network is made for other images or another number of classes."""
    if tuple(data.input_shape) != model.input_shape:
        raise DataError(
            f"The images are {list(data.input_shape)} (channels, height, width) but the network takes "
            f"{list(model.input_shape)}: use other data, or train one with "
            f"--set model.input_shape={list(data.input_shape)}."
        )
    if len(data.class_names) != model.num_classes:
        raise DataError(
            f"The data have {len(data.class_names)} classes but the network {model.num_classes}: "
            f"use other data, or train one with --set model.num_classes={len(data.class_names)}."
        )
