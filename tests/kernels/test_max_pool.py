"""Promise: max pooling in training has PyTorch's values and gradients to the bit, and steps aside where it must."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from spacte_core.kernels import optimize
from spacte_core.kernels.compiler import compile_library
from spacte_core.kernels.cpu import max_pool
from spacte_core.kernels.cpu.max_pool import MaxPool, TrainingMaxPool, known
from spacte_core.models import ModelConfig, MultiHeadNet, build

needs_compiler = pytest.mark.skipif(
    compile_library(max_pool.SOURCE, *max_pool.OPTIONS) is None, reason="there is no C++ compiler on this machine"
)

SHAPES = [(3, 16, 8, 8), (2, 32, 31, 31), (5, 48, 7, 4), (1, 16, 2, 2), (2, 16, 3, 2), (2, 64, 2, 5)]


def maps(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random maps with many equal values, channels last, that want a gradient."""
    x = torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    return x.to(memory_format=torch.channels_last).requires_grad_()


def gradient(y: Tensor, x: Tensor) -> Tensor:
    """Of x, for a random gradient of y."""
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return torch.autograd.grad(y, x, dy, create_graph=y.dtype == torch.float64)[0]


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_gradients_are_pytorchs(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = maps(*shape, dtype=dtype)
    with torch.no_grad():
        x[:, ::7, ::3] = torch.finfo(dtype).smallest_normal / 4  # no number is rounded to zero
        x[:, :, ::5, ::2] = -torch.inf
    ours, true = MaxPool.apply(x), functional.max_pool2d(x, 2)
    assert torch.equal(ours, true)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    found = gradient(ours, x)
    assert torch.equal(found, gradient(true, x))
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert found.dtype == dtype


@needs_compiler
def test_what_is_no_number_is_found_and_stays_in_its_window() -> None:
    x = maps(2, 16, 6, 6)
    with torch.no_grad():
        x[0, 3, 2, 3] = x[1, 5, 0, 0] = x[1, 5, 1, 0] = torch.nan
    ours, true = MaxPool.apply(x), functional.max_pool2d(x, 2)
    assert torch.equal(ours.isnan(), true.isnan())
    assert int(ours.isnan().sum()) == 2
    assert torch.equal(gradient(ours, x), gradient(true, x))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_of_zero_has_no_sign(dtype: torch.dtype) -> None:
    x = maps(2, 16, 6, 6, dtype=dtype)
    dy = -torch.zeros(2, 16, 3, 3, dtype=dtype)
    found, true = (torch.autograd.grad(y, x, dy)[0] for y in (MaxPool.apply(x), functional.max_pool2d(x, 2)))
    assert torch.equal(found.signbit(), true.signbit())


@needs_compiler
def test_the_layout_of_a_gradient_and_the_number_of_threads_change_no_bit() -> None:
    x, threads = maps(7, 32, 9, 9), torch.get_num_threads()
    dy = torch.randn(7, 32, 4, 4, generator=torch.Generator().manual_seed(1))
    seen: list[Tensor] = []
    try:
        for count in (1, 2, 9):
            torch.set_num_threads(count)
            seen += [torch.autograd.grad(MaxPool.apply(x), x, layout)[0] for layout in (dy, dy.permute(0, 1, 3, 2).mT)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(each, seen[0]) for each in seen)


@needs_compiler
def test_a_gradient_can_be_differentiated() -> None:
    """As methods want that attack through the gradient of the input."""
    x, found = maps(2, 16, 5, 7), list[Tensor]()
    for pool in (MaxPool.apply, lambda maps: functional.max_pool2d(maps, 2)):
        y = pool(x * x + torch.arange(x.numel()).view_as(x) / x.numel())
        (slope,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), x)[0])
    assert torch.allclose(*found, rtol=1e-6)
    assert found[0].abs().max() > 0


def test_it_is_for_windows_of_two_by_two_that_do_not_overlap() -> None:
    assert known(nn.MaxPool2d(2))
    assert known(nn.MaxPool2d((2, 2), stride=(2, 2), padding=(0, 0)))
    assert not known(nn.MaxPool2d(3, 2, 1))
    assert not known(nn.MaxPool2d(2, 1))
    assert not known(nn.MaxPool2d((2, 1)))
    assert not known(nn.MaxPool2d(2, padding=1))
    assert not known(nn.MaxPool2d(2, dilation=2))
    assert not known(nn.MaxPool2d(2, ceil_mode=True))
    assert not known(nn.MaxPool2d(2, return_indices=True))
    assert not known(nn.AvgPool2d(2))


@needs_compiler
def test_it_steps_aside() -> None:
    layer, x = TrainingMaxPool(nn.MaxPool2d(2)), maps(2, 16, 6, 6)
    assert layer.fits(x)
    assert not layer.fits(x.detach()), "nobody wants a gradient"
    assert not layer.fits(maps(2, 16, 6, 6, dtype=torch.float64)), "another type"
    assert not layer.fits(x.detach().contiguous().requires_grad_()), "another layout"
    assert not layer.fits(maps(2, 24, 6, 6)), "another number of channels"
    assert not layer.fits(maps(2, 16, 1, 6)), "no window, which is PyTorch's to say"
    with torch.no_grad():
        assert not layer.fits(x)
    layer.pool.register_forward_hook(lambda *_: None)
    assert not layer.fits(x), "a hook"


def fast() -> MultiHeadNet:
    torch.manual_seed(0)
    net = build(ModelConfig(arch="cifar_fast64", heads=2, num_classes=10, input_shape=(3, 32, 32)))
    return net.to(memory_format=torch.channels_last)


@needs_compiler
def test_a_network_in_training_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the same gradients, to the bit, as with PyTorch's pooling."""
    x = torch.randn(4, 3, 32, 32).to(memory_format=torch.channels_last)
    seen: list[list[Tensor]] = []
    for switch in ("on", "-max_pool"):
        monkeypatch.setenv("SPACTE_KERNELS", switch)
        net = fast()
        twin = optimize(net, torch.device("cpu"))
        pools = [module for module in twin.modules() if isinstance(module, TrainingMaxPool)]
        assert len(pools) == (4 if switch == "on" else 0)  # two of the trunk, one of each head
        torch.stack(twin.train()(x)).square().sum().backward()
        seen.append([parameter.grad for parameter in net.parameters() if parameter.grad is not None])
    assert all(map(torch.equal, *seen))


def test_without_a_compiler_pytorch_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(max_pool, "compile_library", lambda *_: None)
    x = maps(2, 16, 6, 6)
    assert torch.equal(TrainingMaxPool(nn.MaxPool2d(2))(x), functional.max_pool2d(x, 2))
