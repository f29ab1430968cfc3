"""Promise: the GPU's narrow convolutions and their gradients are convolutions. Without a GPU they are interpreted."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from spacte_core.models.cifar_resnet import BasicBlock
from spacte_core.models.multihead import shared_copy

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed on this machine"
)

CHECK = """
import sys
import torch
from spacte_core.kernels.gpu import triton_conv

device, dtype = sys.argv[1], getattr(torch, sys.argv[2])
last = torch.channels_last
generator = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(shape, generator=generator).to(device)


def error(found, wanted):
    return ((found.double() - wanted).norm() / wanted.norm()).item()


worst = {}
for channels, out, kernel, stride, size in (
    (3, 16, 3, 1, 8), (16, 16, 3, 1, 8), (32, 32, 3, 1, 4), (16, 32, 3, 2, 8), (16, 32, 1, 2, 8), (64, 64, 3, 1, 4)
):
    x = normal(3, channels, size, size).to(dtype, memory_format=last)
    weight, bias = normal(out, channels, kernel, kernel) / 10, normal(out)
    low = weight.to(dtype)
    plain = torch.nn.functional.conv2d(x.double(), low.double(), stride=stride, padding=kernel // 2)
    other = normal(*plain.shape).to(dtype, memory_format=last)
    wanted = (plain + bias.double()[:, None, None] + other.double()).relu()
    for group in (1, 2):
        filter = triton_conv.Filter.packed(low, stride, group)
        found = triton_conv.convolve(x, filter, stride=stride, bias_O=bias, other_BCHW=other, relu=True)
        worst["fused"] = max(worst.get("fused", 0), error(found, wanted))
    for layout in (torch.contiguous_format, last):
        filter = triton_conv.Filter.of(weight.contiguous(memory_format=layout))
        found = triton_conv.convolve(x, filter, stride=stride)
        assert torch.equal(found, triton_conv.convolve(x, triton_conv.Filter.packed(low, stride), stride=stride))
        worst["plain"] = max(worst.get("plain", 0), error(found, plain))
    moved = triton_conv.convolve(x.flip(0).contiguous(memory_format=last), filter, stride=stride)
    if device == "cuda":
        assert torch.equal(moved.flip(0), found), "a row depends on its place"
    else:  # interpreted, products are NumPy's, whose library may add up a row otherwise in another place: one rounding
        torch.testing.assert_close(moved.flip(0), found, rtol=2**-10, atol=1e-4)
    if stride == 1 and channels > 3:
        dy = normal(*plain.shape).to(dtype, memory_format=last)
        given = (dy.double(), x.double(), low.double(), None, [1, 1], [kernel // 2] * 2, [1, 1], False, [0, 0], 1)
        dx, dw, _ = torch.ops.aten.convolution_backward(*given, (True, True, False))
        transposed = triton_conv.Filter.transposed(weight.contiguous(memory_format=last))
        worst["dx"] = max(worst.get("dx", 0), error(triton_conv.convolve(dy, transposed), dx))
        worst["dw"] = max(worst.get("dw", 0), error(triton_conv.weight_gradient(x, dy, kernel), dw))
    for size, stride in ((7, 2), (9, 1)):
        odd = normal(1, 16, size, size).to(dtype, memory_format=last)
        try:
            filter = triton_conv.Filter.packed(normal(16, 16, 3, 3).to(dtype), stride, 2)
            triton_conv.convolve(odd, filter, stride=stride)
        except ValueError:
            continue
        raise AssertionError("a size that does not divide was taken")
print(*worst.values())
"""


def errors(device: str, dtype: str, **environment: str) -> list[float]:
    """Largest relative errors of a fused and a plain convolution and of both gradients, by a fresh process."""
    command = [sys.executable, "-c", CHECK, device, dtype]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [float(word) for word in done.stdout.split()]


@needs_triton
@pytest.mark.slow
def test_the_kernels_convolve_when_they_are_interpreted() -> None:
    """In float16, whose products the interpreter knows; a result is rounded once, a weight's gradient is not."""
    fused, plain, dx, dw = errors("cpu", "float16", TRITON_INTERPRET="1")
    assert max(fused, plain, dx) < 5e-4
    assert dw < 1e-6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_the_kernels_convolve_on_a_gpu() -> None:
    fused, plain, dx, dw = errors("cuda", "bfloat16")
    assert max(fused, plain, dx) < 4e-3
    assert dw < 1e-5


@needs_triton
def test_a_cpu_and_a_trace_take_pytorchs_operation() -> None:
    """On a CPU a narrow convolution is PyTorch's own; the network behind it keeps plain layers, which can be traced."""
    from spacte_core.kernels.gpu.narrow_conv import NarrowConv2d, fits, narrow_convolutions

    block = BasicBlock(16, 16, stride=1)
    twin = shared_copy(block)
    narrow_convolutions(twin)
    x = torch.randn(2, 16, 8, 8)
    assert type(twin.conv1) is NarrowConv2d
    assert not fits(twin.conv1, x)
    assert torch.equal(twin(x), block(x))
    assert type(block.conv1) is nn.Conv2d
    called = [node.target for node in torch.fx.symbolic_trace(block).graph.nodes if node.op == "call_module"]
    assert [name for name in called if "conv" in str(name)] == ["conv1", "conv2"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_a_layer_trains_as_pytorchs_does() -> None:
    from spacte_core.kernels.gpu.narrow_conv import narrow_convolutions

    torch.manual_seed(0)
    conv = nn.Conv2d(16, 16, 3, padding=1, bias=False).cuda().to(memory_format=torch.channels_last)
    twin = nn.Sequential(shared_copy(conv))
    narrow_convolutions(twin)
    x = torch.randn(4, 16, 8, 8, device="cuda", requires_grad=True)
    found: list[list[torch.Tensor]] = []
    for forward in (twin, conv):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            y = forward(x)
        gradients = torch.autograd.grad(y.float().square().sum(), (x, conv.weight))
        found.append([y.float(), *gradients])
    for ours, theirs in zip(*found, strict=True):
        assert torch.linalg.vector_norm(ours - theirs) < 0.02 * torch.linalg.vector_norm(theirs)
