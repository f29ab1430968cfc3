"""The linear layers that make logits, so that a row's logits are the same bits whatever its batch."""

from typing import cast

import torch
from torch import Tensor, fx, nn

from spacte_core.kernels.compiler import call
from spacte_core.kernels.graph.folding import layer_of, recompile
from spacte_core.kernels.graph.fusing import is_last_linear

from .targets import Target


class RowByRow(nn.Module):
    """A linear layer in float32 whose sums are in one order, whatever the batch: a library's products are not.

    Args:
        linear: what it computes.
        target: whose library has the loop.
        dtype: the kind of maps that the library is for.
    """

    def __init__(self, linear: nn.Linear, target: Target, dtype: torch.dtype) -> None:
        super().__init__()
        library = target.library(dtype)
        if library is None:
            raise ValueError(f"this machine does not compute {dtype} by {target.name}")
        self.library = library
        self.weight_IO = linear.weight.detach().float().T.contiguous()
        bias = torch.zeros_like(linear.weight[:, 0]) if linear.bias is None else linear.bias
        self.bias_O = bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        """float32 [..., O] of [..., I]."""
        rows = x.float().contiguous()
        result = torch.empty((*x.shape[:-1], len(self.bias_O)), dtype=torch.float32)
        call(
            self.library.spacte_linear, rows, self.weight_IO, self.bias_O, result,
            x.shape[:-1].numel(), *self.weight_IO.shape,
        )  # fmt: skip
        return result


def logits_row_by_row(
    graph_module: fx.GraphModule, target: Target, dtype: torch.dtype, *, portable: bool = False
) -> fx.GraphModule:
    """Replace the linear layers that make logits, before a graph is put into bfloat16; changes its argument.

    The form of AMX is older, and leaves them to the library where it need not be portable.
    """
    if target.unit is not None or portable:
        for node in graph_module.graph.nodes:
            if is_last_linear(graph_module, node):
                linear = cast(nn.Linear, layer_of(graph_module, node))
                graph_module.set_submodule(str(node.target), RowByRow(linear, target, dtype))
    return recompile(graph_module)
