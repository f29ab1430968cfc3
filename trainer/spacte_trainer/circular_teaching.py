"""Circular teaching: the weight of every sample for every head, and the loss that keeps the heads apart.

Formulas: METHODS 3.2 and 3.4 (SPACTE). L heads, B samples.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

Teacher = Literal["previous", "next", "self", "random"]
"""Which head judges a sample for head k: k-1 (published), k+1, k itself, or another one drawn for each sample."""


class Uniform(Protocol):
    """What a random teacher is drawn by."""

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Independent U[0, 1)."""
        ...


def teacher_losses(smoothed_ce_LB: Tensor, teacher: Teacher, draws: Uniform) -> Tensor:
    """The loss of each head's teacher on each sample, [L, B], without a graph.

    Raises:
        ValueError: there is one head, which has no teacher.
    """
    heads = len(smoothed_ce_LB)
    if heads < 2:
        raise ValueError("Circular teaching needs at least two heads: raise `heads`, or train without teaching.")
    loss_LB = smoothed_ce_LB.detach()
    match teacher:
        case "previous":
            return loss_LB.roll(1, dims=0)
        case "next":
            return loss_LB.roll(-1, dims=0)
        case "self":
            return loss_LB
        case "random":
            own_L1 = torch.arange(heads, device=loss_LB.device)[:, None]
            further_LB = 1 + (draws.uniform(loss_LB.shape) * (heads - 1)).long().clamp_(max=heads - 2)
            return loss_LB.gather(0, (own_L1 + further_LB) % heads)


def weights(smoothed_ce_LB: Tensor, threshold: float, teacher_LB: Tensor | None = None) -> Tensor:
    """The weight of each sample for each head, by the loss of its teacher, the head before it.

    The teacher of head k is head k-1, and that of head 0 is head L-1. With lbar the smoothed cross-entropy:

        w[k,b] = 1                                              if lbar[k-1,b] < lambda (easy for the teacher)
        w[k,b] = (1 + e^(-lambda)) / (1 + e^(lbar[k,b]-lambda)) if lbar[k-1,b] > lambda (hard for the teacher)
        w[k,b] = 0                                              if lbar[k-1,b] = lambda

    The teacher's loss decides easy or hard, but the weight of a hard sample comes from the head's **own**
    loss. The value 0 at exact equality is the published behaviour.

    Args:
        smoothed_ce_LB: lbar, at least two heads.
        threshold: lambda of the epoch.
        teacher_LB: losses of other teachers than those, without a graph.

    Returns:
        w_LB in [0, 1], without a graph, in the dtype of the losses.

    Raises:
        ValueError: there is one head, which has no teacher.
    """
    if len(smoothed_ce_LB) < 2:
        raise ValueError("Circular teaching needs at least two heads: raise `heads`, or train without teaching.")
    own_LB = smoothed_ce_LB.detach()
    if teacher_LB is None:
        teacher_LB = own_LB.roll(1, dims=0)
    hard_LB = (1 + math.exp(-threshold)) / (1 + torch.exp(own_LB - threshold))
    return torch.where(
        teacher_LB < threshold,
        torch.ones_like(own_LB),
        torch.where(teacher_LB > threshold, hard_LB, torch.zeros_like(own_LB)),
    )


def cosine_loss(heads: Iterable[nn.Module]) -> Tensor:
    """Sum over head pairs of the squared cosine between their parameter vectors.

        L_cos = sum_{i<j} ( <v_i, v_j> / (||v_i|| ||v_j||) )^2

    v_l holds **all** trainable parameters of head l (convolutions, BN scales and shifts, the linear layer)
    and nothing shared. No epsilon and no division by the number of pairs. Fresh networks do not start near
    zero, because every BN scale starts at 1: about .41 for ResNet-20 with three heads, 1.35 with five.

    Returns:
        A scalar in [0, L(L-1)/2], in the dtype of the parameters also under autocast.
    """
    vectors = [[in_memory_order(p) for p in head.parameters()] for head in heads]
    v_LP = torch.cat([part for vector in vectors for part in vector]).unflatten(0, (len(vectors), -1))
    with torch.autocast(v_LP.device.type, enabled=False):
        gram_LL = v_LP @ v_LP.T
    square_L = gram_LL.diagonal()
    cosine2_LL = gram_LL.square() / (square_L[:, None] * square_L[None, :])
    return cosine2_LL.triu(diagonal=1).sum()


def in_memory_order(p: Tensor) -> Tensor:
    """A parameter's entries as they lie in memory, which copies nothing; heads of one layout have one order."""
    return p.reshape(-1) if p.is_contiguous() else p.permute(0, 2, 3, 1).reshape(-1)
