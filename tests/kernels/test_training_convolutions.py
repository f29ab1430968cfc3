"""Promise: a layer in training is the kernel's where the kernel knows the step, and PyTorch's everywhere else."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, fx, nn

from spacte_core.kernels.cpu import strided_training, training_convolutions, winograd_training
from spacte_core.kernels.cpu.training_convolutions import TrainingConv


class Kernel(NamedTuple):
    """A kernel of layers in training.

    Attributes:
        stride: of the layers that it knows.
        in_float32: whether it takes float32 maps, and not only what autocast halves.
    """

    replacement: type[TrainingConv]
    convolutions: Callable[[fx.GraphModule], fx.GraphModule]
    stride: int
    in_float32: bool

    def conv(self) -> nn.Conv2d:
        return nn.Conv2d(16, 16, 3, padding=1, stride=self.stride, bias=False)


KERNELS = {
    "winograd": Kernel(winograd_training.WinogradConv, winograd_training.winograd_convolutions, 1, in_float32=True),
    "strided": Kernel(strided_training.StridedConv, strided_training.strided_convolutions, 2, in_float32=False),
}
MODULES = {"winograd": winograd_training, "strided": strided_training}


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """Each kernel that runs here, as a machine without matrix units has it."""
    if MODULES[request.param].library() is None:
        pytest.skip("the processor lacks its instructions, or there is no compiler")
    flags = training_convolutions.cpu_flags() - {"amx_bf16"}
    monkeypatch.setattr(training_convolutions, "cpu_flags", lambda: flags)
    return KERNELS[request.param]


def maps() -> Tensor:
    return torch.randn(3, 16, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()


def halved() -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16)


def test_it_steps_aside(kernel: Kernel) -> None:
    x, conv = maps(), kernel.conv()
    ours = kernel.replacement(conv)
    with halved():
        assert ours.fits(x)
        assert ours.fits(x.bfloat16())
        assert ours.fits(x.detach()), "its weights are trained"
        conv.requires_grad_(requires_grad=False)
        assert not ours.fits(x.detach()), "nobody wants a gradient"
        conv.requires_grad_()
        with torch.no_grad():
            assert not ours.fits(x)
        assert not ours.fits(x.double())
        assert torch.equal(ours(x[:0]), conv(x[:0]))
        assert not kernel.replacement(copy.deepcopy(conv).double()).fits(x)
    with torch.autocast("cpu", dtype=torch.float16):
        assert not ours.fits(x)
    assert ours.fits(x) is kernel.in_float32
    assert not ours.fits(x.bfloat16()), "PyTorch refuses maps and weights of two types"


def test_hooks_of_the_layer_are_called(kernel: Kernel) -> None:
    x, conv = maps(), kernel.conv()
    ours = kernel.replacement(conv)
    seen: list[nn.Module] = []
    hook = conv.register_forward_hook(lambda layer, *_: seen.append(layer))
    with halved():
        ours(x)
        assert seen == [conv]
        hook.remove()
        assert ours.fits(x)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_weights_that_a_hook_makes(kernel: Kernel) -> None:
    x, conv = maps(), nn.utils.weight_norm(kernel.conv())
    ours = kernel.replacement(conv)
    for _ in range(2):
        with halved():
            y = ours(x)
        y.float().sum().backward()
    assert isinstance(conv.weight_g, nn.Parameter)
    assert conv.weight_g.grad is not None


def test_a_layer_called_twice_and_one_whose_weights_are_read(kernel: Kernel) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice, self.read = kernel.conv(), kernel.conv()

        def forward(self, x_BCHW: Tensor) -> Tensor:
            return self.read(self.twice(self.twice(x_BCHW))) + self.read.weight.square().sum()

    net, x = Both(), maps()
    graph = kernel.convolutions(torch.fx.symbolic_trace(net))
    assert [name for name, module in graph.named_modules() if isinstance(module, TrainingConv)] == ["twice"]
    with halved():
        error = (graph(x) - net(x)).norm() / net(x).norm()
    assert error < 0.02  # of two roundings to bfloat16


def test_under_autocast_maps_are_halved_and_amx_keeps_its_own(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    x, conv = maps(), kernel.conv()
    ours = kernel.replacement(conv)
    with halved():
        y = ours(x)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert x.grad is not None
    assert conv.weight.grad is not None
    assert x.grad.dtype == conv.weight.grad.dtype == torch.float32
    monkeypatch.setattr(training_convolutions, "cpu_flags", lambda: frozenset({"amx_bf16"}))
    with halved():
        assert not ours.fits(x)


def test_a_compiler_sees_the_layer_alone(kernel: Kernel) -> None:
    compiled = torch.compile(kernel.replacement(kernel.conv()), fullgraph=True, backend="eager")
    with halved():
        assert compiled(maps()).shape[:2] == (3, 16)


def test_one_image_without_a_batch(kernel: Kernel) -> None:
    conv = kernel.conv()
    with halved():
        assert torch.equal(kernel.replacement(conv)(maps()[0]), conv(maps()[0]))


@pytest.mark.parametrize("name", KERNELS)
def test_without_a_compiler_pytorch_does_the_work(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULES[name], "library", lambda: None)
    graph = torch.fx.symbolic_trace(nn.Sequential(KERNELS[name].conv()))
    assert not [m for m in KERNELS[name].convolutions(graph).modules() if isinstance(m, TrainingConv)]
