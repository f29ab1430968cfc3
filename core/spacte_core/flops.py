"""What one noisy sample costs a network: multiply-adds, counting one of each as 1 MAC."""

import inspect
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, _FlopCounterMode

from .models import MultiHeadNet
from .models.multihead import frozen_eval


def macs_per_sample(net: MultiHeadNet, input_shape: Sequence[int]) -> int:
    """Multiply-adds of the convolutions and linear layers in one forward of one sample.

    The rest (normalisation, ReLU, additions) is left out, as is usual; all heads or members are counted.
    """
    held = next(chain(net.parameters(), net.buffers()), torch.zeros(0))  # an exported program has no parameters
    x_BCHW = torch.zeros(1, *input_shape, device=held.device)
    with frozen_eval(net):
        return macs_of(net, x_BCHW)


def macs_of(run: Callable[[Tensor], Any], x_BCHW: Tensor) -> int:
    """Multiply-adds of a call with PyTorch's operators, counted as above; 0 where another runtime computes it."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), _Counting(counter):
        run(x_BCHW)
    return counter.get_total_flops() // 2  # PyTorch counts a multiply-add as two operations


class _Counting(_FlopCounterMode):
    """PyTorch's own mode, which would import the compiler to be hidden from it: more than a second of a load."""

    __torch_dispatch__ = inspect.unwrap(_FlopCounterMode.__torch_dispatch__)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
