"""Clean and noisy accuracy of every head and of all heads together, and how often the heads disagree."""

import torch
from pydantic import BaseModel, Field

from spacte_core.data.base import ImageData, in_order, stream
from spacte_core.errors import DataError
from spacte_core.models import ModelConfig, MultiHeadNet
from spacte_core.votes import votes_of

from .objectives import SeededDraws

BATCH = 1_000
"""Images a forward pass. Chosen: it divides CIFAR-10's and ImageNet's test sets. The noise depends on it."""


class Accuracy(BaseModel, frozen=True):
    """Shares in [0, 1], of one kind of input."""

    heads: tuple[float, ...] = Field(description="Of right answers, by head.")
    ensemble: float = Field(description="Of right answers of the summed logits, which is what is certified.")
    disagreement: float = Field(description="Of inputs that two heads answer differently; mean over pairs of heads.")


class Evaluation(BaseModel, frozen=True):
    """Accuracy on a data set, without noise and with."""

    images: int
    sigma: float
    noise_draws: int = Field(description="Noise draws an image behind `noisy`.")
    clean: Accuracy
    noisy: Accuracy


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
    heads, inputs = len(net.heads), 0
    # Counts stay on the device and are read once at the end.
    right_L = torch.zeros(heads, dtype=torch.int64, device=device)
    right, differing_pairs = torch.zeros(2, dtype=torch.int64, device=device)
    for batch in data.batches(in_order(len(data), BATCH), device):
        for _ in range(draws):
            x_BCHW = batch.x_BCHW + sigma * noise.normal(batch.x_BCHW.shape) if sigma else batch.x_BCHW
            z_LBK = torch.stack(net(x_BCHW)).float()
            answers_LB = votes_of(z_LBK)
            right_L += (answers_LB == batch.y_B).sum(dim=1)
            right += (votes_of(z_LBK.sum(dim=0)) == batch.y_B).sum()
            differing_pairs += (answers_LB[:, None] != answers_LB[None]).sum()
            inputs += len(batch.y_B)
    net.train(training)
    pairs = max(1, heads * (heads - 1))
    return Accuracy(
        heads=tuple((right_L / inputs).tolist()),
        ensemble=right.item() / inputs,
        disagreement=differing_pairs.item() / (pairs * inputs),
    )


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
