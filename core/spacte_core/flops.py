"""What one noisy sample costs a network: multiply-adds, counting one of each as 1 MAC."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .models import MultiHeadNet


@torch.inference_mode()
def macs_per_sample(net: MultiHeadNet, input_shape: Sequence[int]) -> int:
    """Multiply-adds of the convolutions and linear layers in one forward of one sample.

    The rest (normalisation, ReLU, additions) is left out, as is usual; all heads or members are counted.
    """
    total = 0

    def count(layer: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            kernel = layer.kernel_size[0] * layer.kernel_size[1] * layer.in_channels // layer.groups
            total += output.numel() * kernel
        elif isinstance(layer, nn.Linear):
            total += output.numel() * layer.in_features

    hooks = [layer.register_forward_hook(count) for layer in net.modules()]
    training = net.training
    first = next(net.parameters())
    try:
        net.eval()
        net(torch.zeros(1, *input_shape, device=first.device))
    finally:
        net.train(training)
        for hook in hooks:
            hook.remove()
    return total
