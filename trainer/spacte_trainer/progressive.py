"""Crops that grow: a run begins with crops of its images, which cost less, and ends with the images whole.

Resizing, which is usual elsewhere, would average the noise of neighbouring pixels: the network would learn for another
noise level. A crop has the noise that it is certified under.
"""

import torch
from torch import Tensor

from spacte_core.models import ModelConfig, MultiHeadNet

from .config import ConfigError
from .schedules import GrowingCrops


def crop(x_BCHW: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """The same crop of every image, of at most `side` pixels a side, at a place that is drawn from the generator.

    What images have of their own is their place under it, by `data.crop`.
    """
    for dim in (2, 3):
        if (spare := x_BCHW.shape[dim] - side) > 0:
            start = int(torch.randint(spare + 1, (), generator=generator))
            x_BCHW = x_BCHW.narrow(dim, start, side)
    return x_BCHW.contiguous()


@torch.no_grad()
def check_crops(net: MultiHeadNet, model: ModelConfig, crops: GrowingCrops) -> None:
    """Raise ConfigError where crops are no smaller than the images, or the network does not take smaller images."""
    channels, height, width = model.input_shape
    sizes = crops.sizes(max(height, width))
    if not sizes:
        raise ConfigError(
            f"progressive.side is {crops.side}, and the images are {height} x {width}: choose fewer pixels, or set "
            "progressive=null."
        )
    training = net.training
    for side in sizes:  # the last of them would come hours into a run
        try:
            net.eval()(torch.zeros(1, channels, min(side, height), min(side, width)))
        except Exception as error:  # perhaps another library's network
            raise ConfigError(
                f"The network does not take crops of {side} pixels ({' '.join(str(error).split())[:200]}): choose "
                "another progressive.side, or set progressive=null."
            ) from error
        finally:
            net.train(training)
