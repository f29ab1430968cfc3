"""An exported program as a graph of layers, which the passes on graphs know.

`torch.export` writes a network as operators of ATen on bare weights. Convolutions, batch normalisation, linear layers,
ReLU, sums, max pooling and global averages become what symbolic tracing of a module would give; others stay.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import CodeGen

from .folding import add_layer, recompile

_aten = torch.ops.aten
_JOINED = (operator.add, torch.relu)
"""Functions that the passes join with layers."""

_NO_EFFECT = (_aten._assert_tensor_metadata.default, _aten._assert_scalar.default)  # noqa: SLF001  their only names


def layers_of_program(program: fx.GraphModule) -> fx.GraphModule:
    """The module of a `torch.export` program, as a graph that returns the logits of its heads, [B, L, K].

    Args:
        program: in eval mode, one tensor to one tensor or several; left as it is, but for weights, which are shared.

    Raises:
        ValueError: it takes more than one tensor, normalises by the statistics of its batch, or reads what was written
            over in place by another name than the export gives it.
    """
    graph = fx.Graph()
    result = graph.graph_copy(program.graph, {})
    graph.set_codegen(CodeGen())
    heads = list(result) if isinstance(result, tuple | list) else [result]
    graph.output(graph.call_function(torch.stack, (heads,), {"dim": 1}))
    if sum(node.op == "placeholder" for node in graph.nodes) != 1:
        raise ValueError("a classifier takes one tensor")
    module = fx.GraphModule(program, graph)
    for node in list(graph.nodes):
        if not node.users and _has_no_effect(node):
            graph.erase_node(node)
            continue
        rewrite = _REWRITES.get(node.target) if node.op == "call_function" else None
        if _is_in_place(node) and _is_joined(node.args[0]) and any(user > node for user in node.args[0].users):
            raise ValueError(f"{node.target} writes over a result that is read later under its old name")
        if rewrite is not None:
            rewrite(module, node)
    for node in list(graph.nodes):
        node.meta.clear()  # shapes of the export, which have no copies
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    return recompile(module)


def _has_no_effect(node: fx.Node) -> bool:
    """Whether the node is a guard or an assertion: the engine checks shapes and dtypes itself."""
    return node.target in _NO_EFFECT or (node.op == "call_module" and node.target == "_guards_fn")


def _conv(module: fx.GraphModule, node: fx.Node) -> None:
    given = _given(node)
    weights = _weights(module, given, "weight", "bias")
    if weights is None or weights["weight"].dim() != 4:
        return
    channels, inputs, *kernel = weights["weight"].shape
    stride, padding, dilation = (_pair(given[name]) for name in ("stride", "padding", "dilation"))
    groups, bias = given["groups"], "bias" in weights
    layer = nn.Conv2d(
        inputs * groups, channels, _pair(kernel), stride, padding, dilation, groups, bias=bias, device="meta"
    )
    _replace(module, node, layer, weights)


def _linear(module: fx.GraphModule, node: fx.Node) -> None:
    weights = _weights(module, _given(node), "weight", "bias")
    if weights is not None:
        results, inputs = weights["weight"].shape
        _replace(module, node, nn.Linear(inputs, results, bias="bias" in weights, device="meta"), weights)


def _batch_norm(module: fx.GraphModule, node: fx.Node) -> None:
    given = _given(node)
    if given["training"]:
        raise ValueError("batch normalisation by the statistics of a batch is no function of a row")
    weights = _weights(module, given, "weight", "bias", "running_mean", "running_var")
    if weights is not None and len(weights) == 4 and _dimensions(node) == 4:
        _replace(module, node, nn.BatchNorm2d(len(weights["weight"]), given["eps"]).eval(), weights)


def _relu(_module: fx.GraphModule, node: fx.Node) -> None:
    if not _is_in_place(node) or _is_joined(node.args[0]):
        node.target = torch.relu


def _add(_module: fx.GraphModule, node: fx.Node) -> None:
    both = len(node.args) == 2 and not node.kwargs and all(isinstance(term, fx.Node) for term in node.args)
    if both and (not _is_in_place(node) or _is_joined(node.args[0])):
        node.target = operator.add


def _max_pool(module: fx.GraphModule, node: fx.Node) -> None:
    given, source = _given(node), node.args[0]
    if isinstance(source, fx.Node) and _dimensions(source) == 4:
        kernel, stride = given["kernel_size"], given["stride"] or given["kernel_size"]
        padding, dilation = _pair(given["padding"]), _pair(given["dilation"])
        pool = nn.MaxPool2d(_pair(kernel), _pair(stride), padding, dilation, ceil_mode=given["ceil_mode"])
        _replace(module, node, pool, {})


def _dropout(module: fx.GraphModule, node: fx.Node) -> None:
    source = node.args[0]
    if _given(node)["train"] is False and isinstance(source, fx.Node):
        node.replace_all_uses_with(source)
        module.graph.erase_node(node)


def _global_average(module: fx.GraphModule, node: fx.Node) -> None:
    """The mean over height and width, made flat after it or by itself: the `mean` of a tensor."""
    given, source = _given(node), node.args[0]
    if node.target == _aten.mean.dim:
        everywhere = sorted(given["dim"] or ()) in ([2, 3], [-2, -1]) and given["dtype"] is None
    else:
        everywhere = _pair(given["output_size"]) == (1, 1)
    if not everywhere or not isinstance(source, fx.Node) or _dimensions(source) != 4:
        return
    last = node
    if given.get("keepdim", True):
        users = list(node.users)
        if len(users) != 1 or not _flattens(users[0]):
            return
        last = users[0]
    with module.graph.inserting_before(node):
        mean = module.graph.call_method("mean", (source, [2, 3]))
    mean.meta = dict(last.meta)
    last.replace_all_uses_with(mean)
    for old in dict.fromkeys((last, node)):
        module.graph.erase_node(old)


def _flattens(node: fx.Node) -> bool:
    """Whether the node makes [B, C] of [B, C, 1, 1]."""
    flat = (_aten.flatten.using_ints, _aten.view.default, _aten.reshape.default, _aten.squeeze.dims)
    return node.op == "call_function" and node.target in flat and _dimensions(node) == 2


_REWRITES: dict[Any, Callable[[fx.GraphModule, fx.Node], None]] = {
    _aten.conv2d.default: _conv,
    _aten.linear.default: _linear,
    _aten.batch_norm.default: _batch_norm,
    _aten.relu.default: _relu,
    _aten.relu_.default: _relu,
    _aten.add.Tensor: _add,
    _aten.add_.Tensor: _add,
    _aten.max_pool2d.default: _max_pool,
    _aten.dropout.default: _dropout,
    _aten.dropout_.default: _dropout,
    _aten.adaptive_avg_pool2d.default: _global_average,
    _aten.mean.dim: _global_average,
}


def _given(node: fx.Node) -> dict[str, Any]:
    """An operator's arguments by name, with their defaults."""
    operands: Any = node.target
    arguments = operands._schema.arguments  # noqa: SLF001  the only way to them
    given = zip((argument.name for argument in arguments), node.args, strict=False)
    return {argument.name: argument.default_value for argument in arguments} | dict(given) | dict(node.kwargs)


def _weights(module: fx.GraphModule, given: dict[str, Any], *names: str) -> dict[str, Tensor] | None:
    """Those of the arguments that are given; None where one of them is computed."""
    found: dict[str, Tensor] = {}
    for name in names:
        value = given[name]
        if isinstance(value, fx.Node) and value.op == "get_attr":
            found[name] = operator.attrgetter(str(value.target))(module)
        elif value is not None:
            return None
    return found


def _replace(module: fx.GraphModule, node: fx.Node, layer: nn.Module, weights: dict[str, Tensor]) -> None:
    """Call a layer in place of an operator, with the weights that it had."""
    for name, weight in weights.items():
        is_parameter = isinstance(getattr(layer, name), nn.Parameter)
        setattr(layer, name, nn.Parameter(weight.detach(), requires_grad=False) if is_parameter else weight)
    with module.graph.inserting_before(node):
        call = module.graph.call_module(add_layer(module, node.name, layer), (node.args[0],))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    module.graph.erase_node(node)


def _is_in_place(node: fx.Node) -> bool:
    """Whether the operator writes over its first argument."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable  # noqa: SLF001


def _is_joined(node: Any) -> bool:
    """Whether the node is one that the passes join with others; its result is no view."""
    return isinstance(node, fx.Node) and (node.op == "call_module" or node.target in _JOINED)


def _dimensions(node: fx.Node) -> int | None:
    value = node.meta.get("val")
    return value.dim() if isinstance(value, Tensor) else None


def _pair(value: Any) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else (*value, *value)[:2]
    return first, second
