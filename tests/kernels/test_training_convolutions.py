"""Promise: a layer in training is the kernel's where the kernel knows the step, and PyTorch's everywhere else."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from tests.convolution_gradients import error
from torch import Tensor, fx, nn

from spacte_core.kernels.cpu import strided_training, training_layers, winograd_training
from spacte_core.kernels.cpu.training_layers import TrainingConv


class Kernel(NamedTuple):
    """A kernel of layers in training.

    Attributes:
        module: where it is.
        stride: of the layers that it knows.
        autocast: whether its maps are halved; in float32 otherwise.
        bound: of the relative error of two layers, one after the other.
    """

    module: ModuleType
    replacement: type[TrainingConv]
    convolutions: Callable[[fx.GraphModule], fx.GraphModule]
    stride: int
    autocast: bool
    bound: float

    def conv(self) -> nn.Conv2d:
        return nn.Conv2d(16, 16, 3, padding=1, stride=self.stride, bias=False)

    def step(self) -> AbstractContextManager[object]:
        return torch.autocast("cpu", dtype=torch.bfloat16) if self.autocast else nullcontext()


WINOGRAD = (winograd_training, winograd_training.WinogradConv, winograd_training.winograd_convolutions, 1)
STRIDED = (strided_training, strided_training.StridedConv, strided_training.strided_convolutions, 2)
KERNELS = {
    "winograd in float32": Kernel(*WINOGRAD, autocast=False, bound=3e-6),
    "winograd": Kernel(*WINOGRAD, autocast=True, bound=0.02),
    "strided": Kernel(*STRIDED, autocast=True, bound=0.02),
}


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """Each kernel that runs here, as a machine without matrix units has it."""
    found = KERNELS[request.param]
    if found.module.library() is None:
        pytest.skip("the processor lacks its instructions, or there is no compiler")
    flags = training_layers.cpu_flags() - {"amx_bf16"}
    monkeypatch.setattr(training_layers, "cpu_flags", lambda: flags)
    return found


def maps() -> Tensor:
    return torch.randn(3, 16, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()


def test_it_steps_aside(kernel: Kernel) -> None:
    x, conv = maps(), kernel.conv()
    ours = kernel.replacement(conv)
    with kernel.step():
        assert ours.fits(x)
        assert ours.fits(x.bfloat16()) is kernel.autocast, "PyTorch refuses maps and weights of two types"
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
    assert ours.fits(x) is (kernel.module is winograd_training), "the strided one is for halved maps alone"
    assert not ours.fits(x.bfloat16())


def test_hooks_of_the_layer_are_called(kernel: Kernel) -> None:
    x, conv = maps(), kernel.conv()
    ours = kernel.replacement(conv)
    seen: list[nn.Module] = []
    hook = conv.register_forward_hook(lambda layer, *_: seen.append(layer))
    with kernel.step():
        ours(x)
        assert seen == [conv]
        hook.remove()
        assert ours.fits(x)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_weights_that_a_hook_makes(kernel: Kernel) -> None:
    x, conv = maps(), nn.utils.weight_norm(kernel.conv())
    ours = kernel.replacement(conv)
    for _ in range(2):
        with kernel.step():
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
    with kernel.step():
        assert error(graph(x), net(x)) < kernel.bound


def test_under_autocast_maps_are_halved_and_amx_keeps_its_own(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    x, conv = maps(), kernel.conv()
    ours = kernel.replacement(conv)
    with kernel.step():
        y = ours(x)
        assert not ours.fits(x.double())
    assert y.dtype == (torch.bfloat16 if kernel.autocast else torch.float32)
    y.float().square().sum().backward()
    assert x.grad is not None
    assert conv.weight.grad is not None
    assert x.grad.dtype == conv.weight.grad.dtype == torch.float32
    monkeypatch.setattr(training_layers, "cpu_flags", lambda: frozenset({"amx_bf16"}))
    with kernel.step():
        assert ours.fits(x) is not kernel.autocast


def test_a_compiler_sees_the_layer_alone(kernel: Kernel) -> None:
    compiled = torch.compile(kernel.replacement(kernel.conv()), fullgraph=True, backend="eager")
    with kernel.step():
        assert compiled(maps()).shape[:2] == (3, 16)


def test_one_image_without_a_batch(kernel: Kernel) -> None:
    conv = kernel.conv()
    with kernel.step():
        assert torch.equal(kernel.replacement(conv)(maps()[0]), conv(maps()[0]))


@pytest.mark.parametrize("name", KERNELS)
def test_without_a_compiler_pytorch_does_the_work(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KERNELS[name].module, "library", lambda: None)
    graph = torch.fx.symbolic_trace(nn.Sequential(KERNELS[name].conv()))
    assert not [m for m in KERNELS[name].convolutions(graph).modules() if isinstance(m, TrainingConv)]
