"""The pass that puts a fused graph on 8-bit codes.

A value is held as uint8 codes where a convolution computes it and a convolution reads it. ReLU outputs have zero = 0. A
residual that is added without a ReLU before it (a downsampling shortcut) is signed; it is made non-negative by raising
its bias, channel by channel, and the convolution that it is added to subtracts the same amount. Everything else
(averages, linear layers) is float32.

Whether the votes are good enough is not decided here: the engine compares them with float32's.
"""

from typing import cast

import torch
from torch import fx, nn

from spacte_core.kernels.graph.folding import add_layer, layer_of, recompile
from spacte_core.kernels.graph.fusing import FusedConv, is_global_average

from .layers import MOST, Codes, Decode, Encode, Int8Conv, MaxPoolOfCodes, MeanOfCodes, Scale, codes_for, round_up
from .ranges import Range
from .rounding import Rounded


class Quantiser:
    """Rewrites one fused graph so that its convolutions run on codes.

    Args:
        graph_module: a fused graph; it stays as it is.
        ranges: that the codes of its nodes have to cover, by the nodes' names.
        input_codes: codes of its input, or None where it gets float32.
        batch: rows of each later call.
        rounded: the weights of its convolutions.

    Attributes:
        new: of each node of the fused graph, the one that computes it on codes.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        ranges: dict[str, Range],
        input_codes: Codes | None,
        batch: int,
        rounded: dict[str, Rounded],
    ) -> None:
        self.root = fx.GraphModule(graph_module, graph_module.graph)  # gets layers that the argument should not
        self.batch, self.ranges, self.input_codes, self.rounded = batch, ranges, input_codes, rounded
        self.graph = fx.Graph()
        self.new: dict[fx.Node, fx.Node] = {}
        self.codes: dict[fx.Node, Codes | None] = {}  # of the old nodes; None: float32
        self.as_float: dict[fx.Node, fx.Node] = {}
        self.as_codes: dict[fx.Node, tuple[fx.Node, Codes]] = {}

    def run(self) -> tuple[fx.GraphModule, Codes | None]:
        """The new graph, unpacked, and the codes of its result (None where it is float32, or several tensors)."""
        result: Codes | None = None
        for node in self.root.graph.nodes:
            step = layer_of(self.root, node)
            codes = self.codes.get(node.args[0]) if node.args and isinstance(node.args[0], fx.Node) else None
            if isinstance(step, FusedConv):
                self._convolution(node, step)
            elif node.op == "output" and codes:
                result = codes
                self.graph.output(self.new[node.args[0]])
            elif isinstance(step, nn.MaxPool2d) and codes:
                channels, height, width = self.ranges[node.args[0].name].shape[1:]
                pool = MaxPoolOfCodes(step, codes, (channels, height, width))
                self._put(node, codes, self._call(str(node.target), pool, self.new[node.args[0]]))
            elif codes and ((node.op, node.target) == ("call_method", "mean") or isinstance(step, _AVERAGES)):
                self._put(node, None, self._average(node, codes))
            else:
                self._put(
                    node,
                    self.input_codes if node.op == "placeholder" else None,
                    self.graph.node_copy(node, self._float),
                )
        return recompile(fx.GraphModule(self.root, self.graph)), result

    def _put(self, node: fx.Node, codes: Codes | None, new: fx.Node) -> None:
        self.new[node], self.codes[node] = new, codes

    def _convolution(self, node: fx.Node, step: FusedConv) -> None:
        source_node = cast(fx.Node, node.args[0])
        source, source_codes = self._coded(source_node)
        args, other_codes = [source], None
        result = self._result_codes(node, step)
        if len(node.args) == 2:
            other = cast(fx.Node, node.args[1])
            other_codes = self.codes[other]
            # The residual is added in place: codes onto codes, or float32 onto float32.
            if other_codes is None or result is None:
                result, other_codes = None, None
                args.append(self._float(other))
            else:
                args.append(self.new[other])
        shape = (self.batch, *self.ranges[source_node.name].shape[1:])
        kernel = Int8Conv(step, shape, source_codes, other_codes, result, self.rounded[str(node.target)])
        self._put(node, result, self._call(str(node.target) + "_int8", kernel, *args))

    def _result_codes(self, node: fx.Node, step: FusedConv) -> Codes | None:
        """Codes for a ReLU's output and for a residual that one other convolution adds; else None."""
        seen = self.ranges[node.name]
        if step.relu:
            return Codes(round_up(max(seen.high, 1e-6) / MOST))
        users = list(node.users)
        if len(users) != 1 or not isinstance(layer_of(self.root, users[0]), FusedConv) or seen.low_C is None:
            return None
        if len(users[0].args) != 2 or users[0].args[0] is node:
            return None
        lift_C = torch.tensor([round_up(-low) if low < 0 else 0.0 for low in seen.low_C.tolist()])
        return Codes(round_up(max(seen.high + lift_C.max().item(), 1e-6) / MOST), 0, lift_C)

    def _average(self, node: fx.Node, codes: Codes) -> fx.Node:
        """An average of codes: the scale is applied to its small result."""
        source = cast(fx.Node, node.args[0])
        if codes.lift_C is not None:
            return self.graph.node_copy(node, self._float)
        if is_global_average(node) and not codes.zero:
            return self._call(f"average_{node.name}", MeanOfCodes(codes.scale), self.new[source])
        values = self._call(f"decode_{source.name}", Decode(codes, scaled=False), self.new[source])
        average = self.graph.node_copy(node, lambda n: values if n is source else self._float(n))
        return self._call(f"scale_{source.name}", Scale(codes.scale), average)

    def _float(self, node: fx.Node) -> fx.Node:
        codes = self.codes[node]
        if codes is None:
            return self.new[node]
        if node not in self.as_float:
            self.as_float[node] = self._call(f"decode_{node.name}", Decode(codes), self.new[node])
        return self.as_float[node]

    def _coded(self, node: fx.Node) -> tuple[fx.Node, Codes]:
        codes = self.codes[node]
        if codes is not None and codes.lift_C is None:
            return self.new[node], codes
        if node not in self.as_codes:
            fresh = codes_for(self.ranges[node.name].low, self.ranges[node.name].high)
            self.as_codes[node] = (self._call(f"encode_{node.name}", Encode(fresh), self._float(node)), fresh)
        return self.as_codes[node]

    def _call(self, name: str, module: nn.Module, *args: fx.Node) -> fx.Node:
        return self.graph.call_module(add_layer(self.root, name, module), args)


_AVERAGES = nn.AdaptiveAvgPool2d | nn.AvgPool2d
