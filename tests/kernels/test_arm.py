"""Promise: on ARM, codes and float32 are the same bits as on x86: the kernel compiled for it is run by an emulator.

`apt-get install qemu-user g++-aarch64-linux-gnu` brings both.
"""

import ctypes
import itertools
import shutil
import struct
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from tests.convolution_chains import a_chain, a_layer, maps
from tests.kernels.test_chain_winograd import directly, extreme_layers

from spacte_core.forms import logits_of
from spacte_core.kernels import inference
from spacte_core.kernels.cpu import chain_winograd, targets
from spacte_core.kernels.cpu.chain import KINDS, ChainKernel, Layer, by_winograd
from spacte_core.kernels.cpu.targets import TARGETS, Target
from spacte_core.models import ModelConfig, build
from spacte_workers.engine.calibration import noisy_rows
from spacte_workers.engine.decomposition import decompose
from spacte_workers.engine.forms import forms

COMPILER, EMULATOR = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
KERNELS = Path(targets.__file__).parent
REFERENCE = next((target for target in TARGETS if target.unit is not None and target.library(torch.uint8)), None)
"""The best of this machine's vector targets: matrix units take only results of 16 channels."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        COMPILER is None or EMULATOR is None, reason="no cross compiler or no qemu-user for aarch64 here"
    ),
    pytest.mark.skipif(REFERENCE is None, reason="no target for chains here to compare with"),
]


def packed(*values):
    """Numbers as int64; tensors and bytes with their length before them."""
    parts = []
    for value in values:
        if isinstance(value, int):
            parts.append(struct.pack("<q", value))
        else:
            parts.append(struct.pack("<q", len(value)) + value)
    return b"".join(parts)


@dataclass(frozen=True)
class Emulated(Target):
    """A target of ARM whose kernel an emulator runs."""

    program: Path = field(default=Path())

    def library(self, dtype):
        return self if dtype in self.needs else None

    def spacte_chain_scratch(self, *_):
        return 1

    def spacte_chain(self, layers, layer_count, all_maps, map_count, copies, copies_in, copies_out, images, *others):
        dtype = KINDS[others[-1].value]
        counts = (layer_count, map_count, copies_in, copies_out, images, others[-1])
        given = packed(*(count.value for count in counts), *copies)
        for layer in layers:
            given += self._layer(layer, all_maps[layer.source].channels, dtype)
        outer = []
        for i, a_map in enumerate(all_maps):
            averaged = any(layer.kernel == 0 and layer.target == i for layer in layers)
            values = images.value * a_map.channels * a_map.height * a_map.width * (4 if averaged else dtype.itemsize)
            content = b"" if a_map.data is None else ctypes.string_at(a_map.data, values)
            given += packed(content, a_map.channels, a_map.height, a_map.width, a_map.border)
            outer += [(a_map.data, len(content))] if content else []
        made = self._run("chain", given)
        for address, length in outer:
            ctypes.memmove(address, made[:length], length)
            made = made[length:]
        assert not made

    def spacte_linear(self, rows, weight, bias, result, count, inputs, outputs):
        count, inputs, outputs = count.value, inputs.value, outputs.value
        sizes = (count * inputs, inputs * outputs, outputs)
        blobs = [ctypes.string_at(at.value, 4 * size) for at, size in zip((rows, weight, bias), sizes, strict=True)]
        made = self._run("linear", packed(*blobs, count, inputs, outputs))
        ctypes.memmove(result.value, made, len(made))

    def _layer(self, layer, source_channels, dtype):
        unit = self.unit[dtype]
        cells = -(-source_channels // unit)
        products = chain_winograd.PRODUCTS if dtype == torch.float32 else chain_winograd.PRODUCTS * unit // 2
        each = products if layer.shape else layer.kernel**2
        weights = 4 * layer.channels * cells * each
        blobs = [
            b"" if at is None else ctypes.string_at(at, size)
            for at, size in (
                (layer.weight, weights),
                (layer.scale, 4 * layer.channels),
                (layer.bias, 4 * layer.channels),
            )
        ]
        sizes = ("channels", "height", "width", "kernel", "stride", "padding")
        names = (*sizes, "relu", "shape", "source", "other", "target")
        numbers = [getattr(layer, name) for name in names]
        return packed(*blobs, struct.pack("<d", layer.other_scale), *numbers)

    def _run(self, what, given):
        command = [EMULATOR, "-cpu", "max", self.program, what]
        return subprocess.run(command, input=given, capture_output=True, check=True).stdout


@pytest.fixture(
    scope="module", params=[target for target in TARGETS if target.name.startswith("neon")], ids=lambda t: t.name
)
def arm(request, tmp_path_factory):
    """One of ARM's targets."""
    target = request.param
    program = tmp_path_factory.mktemp("arm") / target.name
    command = [COMPILER, "-O2", "-std=c++17", "-static", "-fopenmp", "-ffp-contract=off", *target.options]
    command += [
        f'-DSPACTE_KERNEL="{KERNELS / target.source}"',
        "-o",
        program,
        Path(__file__).with_name("emulated_arm.cpp"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    values = {name: getattr(target, name) for name in ("name", "form", "needs", "images", "multiple", "unit", "costs")}
    return Emulated(**values, program=program)


def test_layers(arm):
    generator = torch.Generator().manual_seed(5)
    geometries = itertools.product((3, 16, 21), (16, 20), (1, 3), (1, 2), ((5, 7), (9, 4)))
    for number, (inputs, channels, kernel, stride, side) in enumerate(geometries):
        source = (inputs, *side)
        options = {"kernel": kernel, "stride": stride, "border": 77, "seed": number, "relu": bool(number % 2)}
        layer = a_layer(torch.uint8, source, channels, **options)
        x = torch.randint(0, 256, (6, *source), generator=generator, dtype=torch.uint8)
        other = torch.randint(0, 256, (6, *layer.shape), generator=generator, dtype=torch.uint8)
        given = [x, other] if number % 3 else [x]
        operands, shapes = [(0, len(given) - 1 or None)], [value.shape[1:] for value in given]
        made, wanted = (ChainKernel([layer], operands, shapes, torch.uint8, t)(*given) for t in (arm, REFERENCE))
        assert torch.equal(made, wanted), number


def test_layers_of_float32(arm):
    """Directly and by Winograd, a chain of them, and the average."""
    floats = torch.float32
    for number, (inputs, channels, kernel) in enumerate(itertools.product((3, 32), (16, 20), (1, 3))):
        layer = a_layer(floats, (inputs, 9, 8), channels, kernel=kernel, seed=number, relu=bool(number % 2))
        given = [maps(floats, 6, inputs, 9, 8), maps(floats, 6, *layer.shape, seed=2)][: 1 + number % 2]
        operands, shapes = [(0, len(given) - 1 or None)], [value.shape[1:] for value in given]
        made, wanted = (ChainKernel([layer], operands, shapes, floats, t)(*given) for t in (arm, REFERENCE))
        assert torch.equal(made, wanted), number
    layers, operands = a_chain(floats)
    average = Layer(None, None, None, 0.1, 1, False, layers[-1].shape, (32, 1, 1))
    x = maps(floats, 9, 16, 9, 12)
    for steps, taken in ((layers, operands), ([*layers, average], [*operands, (len(layers), None)])):
        made, wanted = (ChainKernel(steps, taken, [(16, 9, 12)], floats, t)(x) for t in (arm, REFERENCE))
        assert torch.equal(made, wanted)


def test_layers_by_winograd(arm, monkeypatch):
    """Which are taken as counted without i8mm alone, and are right on either."""
    assert by_winograd(a_layer(torch.uint8, (32, 16, 16), 32), torch.uint8, arm) == (arm.name == "neon")
    monkeypatch.setattr(chain_winograd, "pays", lambda *_: True)
    for number, (layer, given) in enumerate(extreme_layers()):
        operands, shapes = [(0, len(given) - 1 or None)], [value.shape[1:] for value in given]
        made, wanted = (
            ChainKernel([layer], operands, shapes, torch.uint8, t)(*given) for t in (arm, directly(REFERENCE))
        )
        assert torch.equal(made, wanted), number


def test_a_chain_and_its_averages(arm):
    layers, operands = a_chain(torch.uint8)
    average = Layer(None, None, None, 0.1, 1, False, layers[-1].shape, (32, 1, 1))
    x = maps(torch.uint8, 9, 16, 9, 12)
    for steps, taken in ((layers, operands), ([*layers, average], [*operands, (len(layers), None)])):
        made, wanted = (ChainKernel(steps, taken, [(16, 9, 12)], torch.uint8, t)(x) for t in (arm, REFERENCE))
        assert torch.equal(made, wanted)


def test_a_chain_with_pooling(arm):
    first = a_layer(torch.uint8, (16, 11, 9), 20, padding=0)
    layers, operands = [first], [(0, None)]
    for number, window in enumerate((2, 3)):
        channels, *sizes = layers[-1].shape
        padding = window // 3
        shape = (channels, *((side + 2 * padding - window) // 2 + 1 for side in sizes))
        layers.append(Layer(None, None, None, 1.0, 2, False, layers[-1].shape, shape, padding=padding, window=window))
        layers.append(a_layer(torch.uint8, shape, 20, seed=number))
        operands += [(len(operands), None), (len(operands) + 1, None)]
    x = maps(torch.uint8, 7, 16, 11, 9)
    made, wanted = (ChainKernel(layers, operands, [(16, 11, 9)], torch.uint8, t)(x) for t in (arm, REFERENCE))
    assert torch.equal(made, wanted)


def test_a_network_gives_the_logits_of_other_machines(arm, monkeypatch):
    monkeypatch.delenv(targets.VARIABLE, raising=False)  # names a target of this machine
    torch.manual_seed(0)
    net = build(ModelConfig(arch="digits_cnn", heads=2, num_classes=10, input_shape=(1, 8, 8))).eval()
    rows = noisy_rows((1, 8, 8), 0.25, 32)
    found = []
    with torch.inference_mode():
        for known in (TARGETS, (arm,)):
            monkeypatch.setattr(targets, "TARGETS", known)
            monkeypatch.setattr(inference, "TARGETS", known)
            classifier = decompose(net, rows[:2], 10)
            (form,) = forms(classifier, "int8", 16, rows, only="portable")
            found.append(logits_of(form, rows))
    assert torch.equal(*found)
