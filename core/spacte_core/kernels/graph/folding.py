"""A module as a flat graph with its batch normalisation folded into its convolutions.

In eval mode batch normalisation is an affine map per channel, so that conv -> BN is one convolution with other weights.
"""

import copy
import operator
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

_RELU_FUNCTIONS = (functional.relu, torch.relu, torch.relu_)
_ADD_FUNCTIONS = (operator.add, operator.iadd, torch.add)


def fold_batch_norm(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Fold each BN in eval mode that alone follows a convolution into it, in float64; changes its argument."""
    for node in list(graph_module.graph.nodes):
        norm = layer_of(graph_module, node)
        if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None or norm.training:
            continue
        source = node.args[0]
        conv = layer_of(graph_module, source)
        if isinstance(conv, nn.Conv2d) and conv.padding_mode == "zeros" and len(source.users) == 1:
            name = add_layer(graph_module, str(source.target), _folded(conv, norm))
            with graph_module.graph.inserting_before(source):
                node.replace_all_uses_with(graph_module.graph.call_module(name, source.args))
            graph_module.graph.erase_node(node)
            graph_module.graph.erase_node(source)
    return recompile(graph_module)


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """The convolution and the affine map behind it as one, computed in float64."""
    mean, var = (cast("Tensor", statistics).double() for statistics in (norm.running_mean, norm.running_var))
    bias, scale, shift = (
        None if value is None else value.detach().double() for value in (conv.bias, norm.weight, norm.bias)
    )
    exact = fuse_conv_bn_weights(conv.weight.detach().double(), bias, mean, var, norm.eps, scale, shift)
    folded = copy.copy(conv).eval()  # the same but for its weights: to copy these, too, takes longer than all else
    folded._parameters = {  # noqa: SLF001  the copy shares the layer's own dictionary
        name: nn.Parameter(value.to(conv.weight.dtype), conv.weight.requires_grad)
        for name, value in zip(("weight", "bias"), exact, strict=True)
    }
    return folded


def recompile(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Generate the graph's code, and drop layers that are no longer used."""
    graph_module.delete_all_unused_submodules()
    graph_module.graph.lint()
    graph_module.recompile()
    return graph_module


def layer_of(graph_module: fx.GraphModule, node: Any) -> nn.Module | None:
    """The layer that a node calls, or None."""
    if isinstance(node, fx.Node) and node.op == "call_module":
        return graph_module.get_submodule(str(node.target))
    return None


def is_relu(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node is max(x, 0)."""
    return (
        isinstance(layer_of(graph_module, node), nn.ReLU)
        or (node.op == "call_function" and node.target in _RELU_FUNCTIONS)
        or (node.op == "call_method" and node.target in ("relu", "relu_"))
    )


def is_add(node: fx.Node) -> bool:
    """Whether the node is the plain sum of two nodes."""
    plus = (node.op == "call_function" and node.target in _ADD_FUNCTIONS) or (
        node.op == "call_method" and node.target in ("add", "add_")
    )
    return plus and len(node.args) == 2 and not node.kwargs and all(isinstance(a, fx.Node) for a in node.args)


def add_layer(graph_module: fx.GraphModule, base: str, layer: nn.Module) -> str:
    """Add a layer under a name, made from `base`, that no other layer has; returns the name."""
    name = base.replace(".", "_") + "_fused"
    taken = {child for child, _ in graph_module.named_children()}  # the name has no dots
    while name in taken:
        name += "_"
    graph_module.add_submodule(name, layer)
    return name
