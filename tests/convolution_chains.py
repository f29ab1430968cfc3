"""Chains of convolutions for the tests of their kernels: layers, maps, and the targets that compute them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from spacte_core.kernels.cpu.chain import ChainKernel, Layer
from spacte_core.kernels.cpu.targets import TARGETS

AMX = TARGETS[0]
EMULATED = replace(
    AMX,
    name="emulated amx",
    needs=dict.fromkeys(AMX.needs, frozenset({"avx512bw", "avx512_bf16"})),
    options=("-march=native", "-include", str(Path(__file__).parent / "kernels" / "emulated_amx.h")),
)
"""The same kernel on tiles in plain C++, for machines without matrix units."""
KINDS = [
    pytest.param(
        target,
        dtype,
        id=f"{target.name}-{str(dtype)[6:]}",
        marks=pytest.mark.skipif(target.library(dtype) is None, reason=f"no {target.name} here, or no compiler"),
    )
    for target in (*TARGETS, EMULATED)
    for dtype in target.needs
]
"""Every target with every type of maps that it computes; those that are not here are skipped."""
every_kind = pytest.mark.parametrize(("target", "dtype"), KINDS)


def of(dtype):
    """Parametrises a test by the targets for such maps."""
    chosen = [param for param in KINDS if param.values[1] == dtype]
    values = [pytest.param(param.values[0], id=param.values[0].name, marks=param.marks) for param in chosen]
    return pytest.mark.parametrize("target", values)


def names_here(dtype):
    """What `SPACTE_CPU` may be on this machine for such maps."""
    return [target.name for target in TARGETS if target.library(dtype) is not None]


def maps(dtype, rows, channels, height, width, seed=1):
    """Random inputs [rows, channels, height, width], channels last."""
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, channels, height, width)
    if dtype == torch.uint8:
        values = torch.randint(0, 256, shape, generator=generator, dtype=dtype)
    else:
        values = torch.randn(shape, generator=generator).to(dtype)
    return values.contiguous(memory_format=torch.channels_last)


def a_layer(dtype, source_shape, channels, *, kernel=3, stride=1, relu=True, border=0, seed=0, padding=None):
    """A convolution with random weights whose results on `maps` are spread over the range of their type."""
    generator = torch.Generator().manual_seed(seed)
    inputs, height, width = source_shape
    padding = kernel // 2 if padding is None else padding
    shape = (channels, *((side + 2 * padding - kernel) // stride + 1 for side in (height, width)))
    size = (channels, inputs, kernel, kernel)
    spread = (inputs * kernel * kernel) ** -0.5
    bias_O = torch.randn(channels, generator=generator)
    if dtype == torch.uint8:
        weight = torch.randint(-127, 128, size, generator=generator, dtype=torch.int8)
        scale_O = (0.5 + torch.rand(channels, generator=generator)) * spread / 127
        return Layer(weight, scale_O, bias_O * 50 + 60, 0.375, stride, relu, source_shape, shape, border, padding)
    weight = (torch.randn(size, generator=generator) * spread).to(dtype)
    return Layer(weight, None, bias_O, 1.0, stride, relu, source_shape, shape, padding=padding)


def exact(layer, x, other=None):
    """The layer in float64, before its result is rounded."""
    codes = layer.scale_O is not None
    padded = functional.pad(x.double(), (layer.padding,) * 4, value=layer.border)
    y = functional.conv2d(padded, layer.weight_OIKK.double(), stride=layer.stride)
    if codes:
        y = y * layer.scale_O.double()[:, None, None]
    y = y + layer.bias_O.double()[:, None, None]
    y = y if other is None else y + other.double() * layer.other_scale
    return y.clamp(0, 255) if codes else y.relu() if layer.relu else y


def a_chain(dtype, shape=(16, 9, 12)):
    """Blocks of two layers with the block's input as residual, one that halves the map, and an average."""
    wide = (32, (shape[1] + 1) // 2, (shape[2] + 1) // 2)
    layers = [a_layer(dtype, shape, 16, seed=i) for i in range(5)]
    layers += [a_layer(dtype, shape, 32, stride=2, seed=5), a_layer(dtype, wide, 32, seed=6)]
    layers += [a_layer(dtype, shape, 32, stride=2, kernel=1, seed=7)]
    operands = [(0, None), (1, None), (2, 1), (3, None), (4, 3), (5, None), (6, None), (5, None)]
    layers += [a_layer(dtype, wide, 32, seed=8)]
    operands += [(7, 8)]
    return layers, operands


def chains_of(graph):
    """How many layers each chain of the graph has."""
    return [len(module.layers) for module in graph.modules() if isinstance(module, ChainKernel)]
