"""What one noisy sample costs a network: multiply-adds, counting one of each as 1 MAC."""

from collections.abc import Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from .models import MultiHeadNet
from .models.multihead import frozen_eval


def macs_per_sample(net: MultiHeadNet, input_shape: Sequence[int]) -> int:
    """Multiply-adds of the convolutions and linear layers in one forward of one sample.

    The rest (normalisation, ReLU, additions) is left out, as is usual; all heads or members are counted.
    """
    x_BCHW = torch.zeros(1, *input_shape, device=next(net.parameters()).device)
    with frozen_eval(net), FlopCounterMode(display=False) as counter:
        net(x_BCHW)
    return counter.get_total_flops() // 2  # PyTorch counts a multiply-add as two operations
