"""Promise: gradients of strided convolutions by the kernel are the plain ones, with sums in float32."""

import pytest
import torch
from tests.convolution_gradients import Gradients, error, exact, exact_gradients, gradients, second_gradients
from torch import Tensor, nn

from spacte_core.hardware import cpu_flags
from spacte_core.kernels import optimize
from spacte_core.kernels.cpu.strided_training import Convolution, StridedConv, known, library
from spacte_core.models import ModelConfig, build

needs_kernel = pytest.mark.skipif(library() is None, reason="no AVX-512 with bfloat16, or no compiler")

SHAPES = {  # [B, C, H, W], channels out, side of the weights
    "of a ResNet-20": ((5, 16, 32, 32), 32, 3),
    "with two registers of channels": ((3, 32, 16, 16), 64, 3),
    "with three": ((2, 48, 6, 6), 48, 3),
    "odd sides": ((3, 16, 9, 7), 48, 3),
    "an odd number of columns of the result": ((3, 32, 8, 10), 16, 3),
    "one pixel": ((5, 64, 1, 1), 16, 3),
    "one row": ((2, 16, 1, 21), 16, 3),
    "one column": ((2, 16, 13, 1), 16, 3),
    "a shortcut": ((3, 16, 8, 8), 32, 1),
    "a shortcut of odd sides": ((2, 32, 5, 3), 64, 1),
    "a shortcut of one pixel": ((2, 16, 1, 1), 16, 1),
}
OF_SUMS, OF_MAPS = 1e-6, 3e-3
"""Relative errors in the 2-norm: of sums in float32, the largest seen being 1.3e-7, and of one rounding to bfloat16."""


def case(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Maps and weights that want gradients, and the gradient of the result."""
    shape, out, side = SHAPES[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).bfloat16().to(memory_format=torch.channels_last)
    weight = torch.randn(out, shape[1], side, side, generator=generator) / (side * shape[1] ** 0.5)
    size = [(length + 1) // 2 for length in shape[2:]]
    dy = torch.randn(shape[0], out, *size, generator=generator).bfloat16()
    return x.requires_grad_(), weight.requires_grad_(), dy


def found(x: Tensor, weight: Tensor, dy: Tensor) -> Gradients:
    """Result and both gradients, by the kernel."""
    return gradients(Convolution, x, weight, dy)


@needs_kernel
@pytest.mark.parametrize("name", SHAPES)
def test_it_is_the_convolution_and_its_gradients(name: str) -> None:
    x, weight, dy = case(name)
    ours, true = found(x, weight, dy), exact_gradients(x, weight.bfloat16(), dy, stride=2)  # as bfloat16 has them
    assert [value.dtype for value in ours] == [torch.bfloat16, torch.bfloat16, torch.float32]
    errors = [error(value, of) for value, of in zip(ours, true, strict=True)]
    print(name, errors)
    assert max(errors[:2]) < OF_MAPS
    assert errors[2] < OF_SUMS


@needs_kernel
def test_layouts_do_not_matter() -> None:
    x, weight, dy = case("odd sides")
    usual = found(x, weight, dy)
    moved = (
        x.detach().contiguous().requires_grad_(),
        weight.detach().contiguous(memory_format=torch.channels_last).requires_grad_(),
        dy.contiguous(memory_format=torch.channels_last),
    )
    assert all(map(torch.equal, found(*moved)[1:], usual[1:]))


@needs_kernel
def test_an_image_is_its_own_whatever_its_batch_and_threads() -> None:
    """Gradients of maps to the bit; that of weights is a sum over images, by threads."""
    x, weight, dy = case("of a ResNet-20")
    threads = torch.get_num_threads()
    seen = []
    try:
        for count in (1, 2, 7, 2):  # seven are more than there are images
            torch.set_num_threads(count)
            seen.append(found(x, weight, dy))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(each[1], seen[0][1]) for each in seen)
    assert torch.equal(seen[1][2], seen[3][2])
    assert all(error(each[2], seen[0][2]) < OF_SUMS for each in seen)
    part = found(x.detach()[1:3].requires_grad_(), weight, dy[1:3])
    assert torch.equal(part[1], seen[0][1][1:3])


@needs_kernel
def test_what_is_no_number_stays_in_its_image() -> None:
    x, weight, dy = case("odd sides")
    dy[1, 3, 2, 2] = torch.nan
    _, dx, d_weight = found(x, weight, dy)
    assert dx[1].isnan().any()
    assert not dx[[0, 2]].isnan().any()
    assert d_weight[3].isnan().any()
    assert not d_weight[:3].isnan().any()


@needs_kernel
def test_gradients_that_nobody_wants_are_left_out() -> None:
    x, weight, dy = case("odd sides")
    _, dx, d_weight = found(x, weight, dy)
    (only_x,) = torch.autograd.grad(Convolution.apply(x, weight.detach()), x, dy)
    (only_weight,) = torch.autograd.grad(Convolution.apply(x.detach(), weight), weight, dy)
    assert torch.equal(only_x, dx)
    assert torch.equal(only_weight, d_weight)


@needs_kernel
@pytest.mark.parametrize("name", ["odd sides", "a shortcut"])
def test_a_gradient_can_be_differentiated(name: str) -> None:
    """As methods want that attack through the gradient of the input."""
    x, weight, dy = case(name)

    ours = second_gradients(Convolution.apply(x, weight), x, weight, dy)
    x64, weight64 = x.detach().double().requires_grad_(), weight.detach().bfloat16().double().requires_grad_()
    theirs = second_gradients(exact(x64, weight64, stride=2), x64, weight64, dy)
    assert all(error(value, true) < 10 * OF_MAPS for value, true in zip(ours, theirs, strict=True))


@needs_kernel
def test_the_default_type_does_not_matter() -> None:
    inputs = case("odd sides")
    usual, before = found(*inputs), torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert all(map(torch.equal, found(*inputs), usual))
    finally:
        torch.set_default_dtype(before)


def test_layers_that_it_does_not_know() -> None:
    assert known(nn.Conv2d(16, 48, 3, padding=1, stride=2, bias=False))
    assert known(nn.Conv2d(16, 48, 1, stride=2, bias=False))
    others = [
        nn.Conv2d(16, 16, 3, padding=1, stride=2),
        nn.Conv2d(16, 16, 3, padding=1, bias=False),
        nn.Conv2d(16, 16, 3, padding=1, stride=(2, 1), bias=False),
        nn.Conv2d(16, 16, 3, stride=2, bias=False),
        nn.Conv2d(16, 16, 1, padding=1, stride=2, bias=False),
        nn.Conv2d(16, 16, 5, padding=2, stride=2, bias=False),
        nn.Conv2d(16, 16, 2, padding=1, stride=2, bias=False),
        nn.Conv2d(16, 16, (3, 1), padding=(1, 0), stride=2, bias=False),
        nn.Conv2d(16, 16, 3, padding=1, stride=2, groups=2, bias=False),
        nn.Conv2d(16, 16, 3, padding=1, stride=2, padding_mode="circular", bias=False),
        nn.Conv2d(24, 16, 3, padding=1, stride=2, bias=False),
        nn.Conv2d(3, 16, 3, padding=1, stride=2, bias=False),
        nn.Conv2d(16, 16, 3, padding=1, stride=2, bias=False).double(),
    ]
    assert not any(map(known, others))


@needs_kernel
def test_a_network_trains_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """All strided layers of a ResNet are taken; its gradients are those of PyTorch, as far as bfloat16 has them."""
    config = ModelConfig(arch="cifar_resnet20", heads=2, num_classes=10, input_shape=(3, 16, 16))
    torch.manual_seed(0)
    net = build(config).to(memory_format=torch.channels_last)
    taken = [module.conv for module in optimize(net, torch.device("cpu")).modules() if isinstance(module, StridedConv)]
    assert len(taken) == len([m for m in net.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)])
    if "amx_bf16" in cpu_flags():
        pytest.skip("matrix units keep these layers to oneDNN")
    x = torch.rand(8, 3, 16, 16)

    def gradient() -> Tensor:
        net.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = torch.stack(optimize(net, torch.device("cpu"))(x))
        logits.float().square().mean().backward()
        return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])

    ours = gradient()
    monkeypatch.setenv("SPACTE_KERNELS", "-strided")
    theirs = gradient()
    assert not torch.equal(ours, theirs)
    assert error(ours, theirs) < 0.05
