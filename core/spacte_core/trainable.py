"""A stored program as a network that can be trained, cut into a backbone and heads.

A program's graph calls operators on weights. Here convolutions, linear layers and batch normalisations become layers
again: they train, batch statistics move in train mode, and kernels know them. Everything else stays as it is.
"""

import copy
import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from .checkpoint import CheckpointError
from .models import ModelConfig, MultiHeadNet, program_archive
from .models.exported import Program
from .models.multihead import Pick

Net = TypeVar("Net", bound=nn.Module)

PERTURBATION = 0.1
"""Sd of what is added to the weights of all heads but the first, as part of each weight's own sd, so that circular
teaching can part them. Chosen: they then answer a little differently, and about as well."""

SPLITS: Sequence[tuple[str, int]] = (
    (r"(?:.*\.)?layer4", 1),
    (r"(?:.*\.)?(?:stages|levels)\.\d+", 1),
    (r"(?:.*\.)?denseblock\d+", 1),
    (r"(?:.*\.)?(?:blocks|layers|layer)\.(?:encoder_layer_)?\d+", 3),
    (r"(?:.*\.)?layers\.encoder_layer_\d+", 3),
    (r"(?:.*\.)?features\.\d+", 3),
)
"""Where known families are cut: at the last module, or the third from the last, that such a name has. Chosen: the last
stage of ResNet and ConvNeXt as in SPACTE, and the last three blocks where there are no stages."""

_aten = torch.ops.aten
_PREFIX = "module."  # of the adapter that programs are exported with


def trainable_network(
    program: Program, config: ModelConfig, *, split: str | None = None, seed: int = 0
) -> MultiHeadNet:
    """The network of a stored program.

    Args:
        program: of one head, or of `config.heads`.
        config: what the network is to be; a program of one head is cut where it is to have more.
        split: name of the module at which heads begin; None: where its family is usually cut.
        seed: of the perturbation.

    Raises:
        CheckpointError: it cannot be cut there.
    """
    graph = lifted(program)
    outputs = next(node for node in graph.graph.nodes if node.op == "output").args[0]
    count = len(outputs) if isinstance(outputs, list | tuple) else 1
    normalize = config.normalization.build()
    if count > 1 and count != config.heads:
        raise CheckpointError(
            f"The program has {count} heads already: leave --heads out, or start from one of one head."
        )
    if count > 1:
        return MultiHeadNet(normalize, _Stacked(graph), map(Pick, range(count)))
    if config.heads == 1 and split is None:
        return MultiHeadNet(normalize, nn.Identity(), [graph])
    backbone, head = cut(graph, split or usual_split(graph))
    heads = [head, *(perturbed(copy.deepcopy(head), seed + number) for number in range(1, config.heads))]
    return MultiHeadNet(normalize, backbone, heads)


def lifted(program: Program) -> fx.GraphModule:
    """The program's graph over layers with its weights, in eval mode; it takes pixels and returns logits."""
    whole = program_archive.load(program.archive).module()
    graph, parts = fx.Graph(), dict[str, Any]()
    state = {**dict(whole.named_parameters()), **dict(whole.named_buffers())}
    made: dict[fx.Node, fx.Node] = {}

    def moved(old: fx.Node) -> fx.Node:
        """The node's place in the new graph; a weight gets one where no layer has taken it."""
        if old not in made and old.op == "get_attr":
            made[old] = graph.get_attr(name := _name_of(old.target))
            parts[name] = _own(state.get(str(old.target)))
        return made[old]

    for node in whole.graph.nodes:
        if node.op in ("call_module", "get_attr"):  # modules are the guards of shapes
            continue
        layer = _layer(node, state)
        if layer is None:
            made[node] = graph.node_copy(node, moved)
        else:
            name = _unused(_name(node).rpartition(".")[0], parts)
            parts[name] = layer
            made[node] = graph.call_module(name, (moved(node.args[0]),))
        made[node].meta = dict(node.meta)
    outputs = next(node for node in graph.nodes if node.op == "output")
    if isinstance(outputs.args[0], list | tuple) and len(outputs.args[0]) == 1:
        outputs.args = (outputs.args[0][0],)
    module = _module(parts, graph)
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return module.eval()


def usual_split(graph: fx.GraphModule) -> str:
    """Where a network of a known family is cut.

    Raises:
        CheckpointError: it is of none.
    """
    names = [name for node in graph.graph.nodes for name in _prefixes(node)]
    for pattern, from_end in SPLITS:
        found = list(dict.fromkeys(name for name in names if re.fullmatch(pattern, name)))
        if found:
            return found[-min(from_end, len(found))]
    raise CheckpointError("This network's family is not known here: name the module at which heads begin with --split.")


def cut(graph: fx.GraphModule, split: str) -> tuple[fx.GraphModule, fx.GraphModule]:
    """What comes before the first use of a module's weights, and the rest.

    Raises:
        CheckpointError: no module has that name, or more than one tensor crosses the cut.
    """
    nodes = list(graph.graph.nodes)
    first = next((i for i, node in enumerate(nodes) if split in _prefixes(node)), None)
    if first is None:
        near = list(dict.fromkeys(name for node in nodes for name in _prefixes(node) if name.count(".") < 2))
        raise CheckpointError(f"There is no module {split!r} with weights: name one such as {', '.join(near[-8:])}.")
    before = set(nodes[:first])
    after = nodes[first:]
    crossing = dict.fromkeys(n for node in after for n in node.all_input_nodes if n in before and n.op != "get_attr")
    varying = _varying(nodes)
    tensors = [node for node in crossing if node in varying]
    if len(tensors) != 1:
        raise CheckpointError(
            f"{len(tensors)} tensors cross a cut at {split!r}: name a module into which the whole result of those "
            "before it goes."
        )
    feature = tensors[0]
    if feature.op == "placeholder":
        raise CheckpointError(f"Nothing lies before {split!r}: name a later module.")
    backbone = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    for node in nodes[:first]:
        made[node] = backbone.node_copy(node, lambda old: made[old])
    backbone.output(made[feature])
    return _module(graph, backbone), _module(graph, _head(after, before, feature))


def _head(after: Sequence[fx.Node], before: set[fx.Node], feature: fx.Node) -> fx.Graph:
    """The nodes after a cut as a graph of their own, which takes the feature tensor."""
    head = fx.Graph()
    made: dict[fx.Node, fx.Node] = {feature: head.placeholder("features")}
    batch = None

    def moved(old: fx.Node) -> fx.Node:
        """What stands for a node from before the cut: weights, the number of images, and what follows from these."""
        nonlocal batch
        if old in made or old not in before:
            return made[old]
        if old.op == "get_attr":
            made[old] = head.node_copy(old)
        elif old.target is _aten.sym_size.int and old.args[1] == 0:
            batch = batch or head.call_function(_aten.sym_size.int, (made[feature], 0))
            made[old] = batch
        else:
            made[old] = head.node_copy(old, moved)
        return made[old]

    for node in after:
        made[node] = head.node_copy(node, moved)
    return head


def _varying(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """The nodes whose values depend on the pixels, and not on the number of images alone."""
    found: set[fx.Node] = set()
    for node in nodes:
        counted = node.target is _aten.sym_size.int
        if node.op == "placeholder" or (not counted and any(source in found for source in node.all_input_nodes)):
            found.add(node)
    return found


def _module(root: Any, graph: fx.Graph) -> fx.GraphModule:
    """The graph over layers and weights of its own, without what nothing needs."""
    module = fx.GraphModule(root, graph)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return copy.deepcopy(module)


def _own(value: Any) -> Any:
    """A weight or constant that belongs to nobody else."""
    if isinstance(value, nn.Parameter):
        return nn.Parameter(value.detach().clone(), requires_grad=value.is_floating_point())
    return value.detach().clone()


class _Stacked(nn.Module):
    """A graph that returns the logits of all heads, as one tensor [B, L, K]."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits of all heads."""
        return torch.stack(list(self.graph(x_BCHW)), dim=1)


class WithoutNormalization(nn.Module):
    """A network after its normalisation: what is stored as a program, beside the normalisation."""

    def __init__(self, net: MultiHeadNet) -> None:
        super().__init__()
        self.backbone, self.heads = net.backbone, net.heads

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        """Logits of all heads."""
        features = self.backbone(x_BCHW)
        return [head(features) for head in self.heads]


def _layer(node: fx.Node, state: dict[str, Any]) -> nn.Module | None:
    """The layer that an operator with weights is, or None."""
    if node.op != "call_function" or node.target not in (
        _aten.conv2d.default,
        _aten.linear.default,
        _aten.batch_norm.default,
    ):
        return None
    arguments: list[Any] = [
        state.get(str(a.target), a) if isinstance(a, fx.Node) and a.op == "get_attr" else a for a in node.args[1:]
    ]
    if node.kwargs or not isinstance(arguments[0], nn.Parameter):
        return None
    weight = arguments[0]
    bias = arguments[1] if len(arguments) > 1 else None
    with torch.device("meta"):
        layer = _empty(node.target, weight, bias, arguments)
    if layer is None:
        return None
    layer.weight = nn.Parameter(weight.detach().clone())
    layer.bias = None if bias is None else nn.Parameter(bias.detach().clone())
    if isinstance(layer, nn.BatchNorm2d):
        layer.running_mean, layer.running_var = arguments[2].detach().clone(), arguments[3].detach().clone()
        layer.num_batches_tracked = torch.tensor(0)
    return layer


def _empty(target: Any, weight: Tensor, bias: Any, arguments: Sequence[Any]) -> Any:
    """A layer of the operator's shape, without weights; None where no layer is this operator."""
    if target is _aten.linear.default:
        return nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    if target is _aten.batch_norm.default:
        return nn.BatchNorm2d(len(weight), eps=arguments[6], momentum=arguments[5]) if bias is not None else None
    usual: tuple[Any, ...] = ((1, 1), (0, 0), (1, 1), 1)
    stride, padding, dilation, groups = (*arguments[2:], *usual[len(arguments[2:]) :])
    out, within, height, width = weight.shape
    options: dict[str, Any] = {"stride": _pair(stride), "padding": _pair(padding), "dilation": _pair(dilation)}
    return nn.Conv2d(within * groups, out, (height, width), groups=groups, bias=bias is not None, **options)


def _pair(value: Any) -> tuple[int, int]:
    values = tuple(value) if isinstance(value, Iterable) else (value,)
    return (values[0], values[-1])


def _name(node: fx.Node) -> str:
    """The name of the weight that an operator takes."""
    weight: Any = node.args[1]
    return _name_of(weight.target)


def _name_of(target: Any) -> str:
    return str(target).removeprefix(_PREFIX)


def _unused(name: str, parts: dict[str, Any]) -> str:
    """The name, or a variant of it where a layer runs twice."""
    while name in parts or any(other.startswith(f"{name}.") for other in parts):
        name += "_"
    return name


def _prefixes(node: fx.Node) -> list[str]:
    """The names of the modules that a node's weights belong to, the outermost first."""
    if node.op not in ("call_module", "get_attr"):
        return []
    parts = str(node.target).split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def perturbed(head: Net, seed: int) -> Net:
    """The head, with other weights near its own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in head.parameters():
            if weight.dim() > 1:
                weight += PERTURBATION * weight.std() * torch.randn(weight.shape, generator=generator)
    return head
