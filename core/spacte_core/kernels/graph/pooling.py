"""Max pooling after what may as well come before it: a convolution has its batch normalisation and ReLU beside it then.

The greatest of a window's values, through an increasing function, is the greatest of what that function makes of them:
not one bit of a result changes.
"""

from typing import cast

import torch
from torch import fx, nn

from .folding import is_relu, layer_of


def delay_pooling(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Move max pooling of a convolution's result after the normalisation and ReLU behind it; changes its argument."""
    for pool in list(graph_module.graph.nodes):
        layer = layer_of(graph_module, pool)
        if not isinstance(layer, nn.MaxPool2d) or layer.return_indices or not _of_a_convolution(graph_module, pool):
            continue
        while len(pool.users) == 1 and _increases(graph_module, user := next(iter(pool.users))):
            with graph_module.graph.inserting_before(pool):
                earlier = graph_module.graph.node_copy(user, {pool: pool.args[0]}.__getitem__)
            pool.args = (earlier,)
            user.replace_all_uses_with(pool)
            graph_module.graph.erase_node(user)
    return graph_module


def _of_a_convolution(graph_module: fx.GraphModule, pool: fx.Node) -> bool:
    source = cast(fx.Node, pool.args[0])
    if isinstance(layer_of(graph_module, source), nn.BatchNorm2d) and len(source.users) == 1:
        source = cast(fx.Node, source.args[0])
    return isinstance(layer_of(graph_module, source), nn.Conv2d) and len(source.users) == 1


def _increases(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node is an increasing function of its one input's values, the same everywhere or in each channel."""
    norm = layer_of(graph_module, node)
    if isinstance(norm, nn.BatchNorm2d):
        fixed = norm.running_mean is not None and not norm.training
        return fixed and (not norm.affine or bool(torch.all(norm.weight >= 0)))
    return is_relu(graph_module, node)
